"""All leaves of a whole radix tree, whatever is wrong with it.

All tables of a level are read together and decoded as arrays, so the cost for
Python does not grow with the number of tables. A tree in which nothing is odd
takes the quicker way of `forest`. A leaf is a word with V and L set, at any
level. Words with V clear are left out, also those with _PAGE_INVALID (SW0),
which Linux's `pte_present()` counts as present while it changes them: hardware
does not translate through them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.forest import forest_leaves
from nestscope.decoders.sources.protocol import Memory, read_many
from nestscope.decoders.state import LEAF, Columns, Leaves, Problem
from nestscope.decoders.words.pde import PDE_NLB, PDE_NLS
from nestscope.decoders.words.pte import PTE_LEAF, PTE_RPN, PTE_V

Words = NDArray[np.uint64]

MAX_TABLE_BYTES = 512 << 20
"""Tables of one tree that are read at most. 512 MiB hold 64 million leaves."""

MAX_PROBLEMS = 1000
"""Problems of one tree that are told apart; the rest is counted."""

_MIN_PAGE_SHIFT = np.uint64(12)
_ONE = np.uint64(1)
_EIGHT = np.uint64(8)
_LEAF = np.uint64(PTE_LEAF)
_NLB = np.uint64(PDE_NLB)
_NLS = np.uint64(PDE_NLS)
_BATCH_BYTES = 16 << 20
"""Bytes read in one go, so that a wide level needs little memory besides its leaves."""


class _Tables(NamedTuple):
    """Tables still to be read, as columns of one length."""

    table: Words
    """Where they are."""
    prefix: Words
    """The first address that each one maps."""
    bits: Words
    """log2 of their entries."""
    shift: Words
    """log2 of what one of their entries maps."""

    def pick(self, which: NDArray[np.bool_]) -> "_Tables":
        return _Tables(*(column[which] for column in self))


@dataclass
class _Harvest:
    """What a run has found so far, and its bounds."""

    path: str
    budget: int
    visited: list[Words] = field(default_factory=list)
    """Tables that were read, ascending, level by level."""
    leaves: list[Columns] = field(default_factory=list)
    ascending: bool = True
    """Whether each part of the leaves is in order by itself."""
    problems: list[Problem] = field(default_factory=list)
    untold: int = 0

    def problem(self, message: str, address: int, kind: str | None = None) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.path, message, address, kind))
        else:
            self.untold += 1

    def problem_each(self, message: str, addresses: Words, kind: str | None = None) -> None:
        room = MAX_PROBLEMS - len(self.problems)
        for address in addresses[:room].tolist():
            self.problem(message, address, kind)
        self.untold += max(0, len(addresses) - room)


def tree_leaves(
    memory: Memory,
    root: int,
    root_bits: int,
    address_bits: int = 52,
    *,
    path: str = "leaves",
    max_table_bytes: int = MAX_TABLE_BYTES,
) -> tuple[Leaves, list[Problem]]:
    """Return all leaves of the tree at `root`, and what could not be read or is malformed.

    `root` is the address of the root table in bytes, `2**root_bits` its
    entries, `address_bits` the size of what the tree maps. `memory` takes the
    addresses that the tree holds. Every table says its own size (NLS), so any
    geometry is read, also mixed ones. `path` is put into the problems.

    Each table is read once: a second way to it is a problem, so cyclic trees
    end. At most `max_table_bytes` of tables are read. Everything readable is
    returned whatever the problems are; nothing is raised.
    """
    (sound,) = forest_leaves(memory, [root], root_bits, address_bits, max_table_bytes)
    if sound is not None:
        return sound, []
    return odd_tree_leaves(
        memory, root, root_bits, address_bits, path=path, max_table_bytes=max_table_bytes
    )


def odd_tree_leaves(
    memory: Memory,
    root: int,
    root_bits: int,
    address_bits: int = 52,
    *,
    path: str = "leaves",
    max_table_bytes: int = MAX_TABLE_BYTES,
) -> tuple[Leaves, list[Problem]]:
    """Do what `tree_leaves` does for a tree that `forest_leaves` has declined."""
    found = _Harvest(path, max_table_bytes)
    first = _Tables(
        np.array([root], np.uint64),
        np.zeros(1, np.uint64),
        np.array([root_bits], np.uint64),
        np.array([address_bits], np.uint64),
    )
    pending = _possible(first, first.table, found)
    while len(pending.table):
        admitted = _admit(pending, found)
        lower = [
            tables for front in _fronts(admitted) for tables in _read_front(memory, front, found)
        ]
        pending = _joined(lower)
    if found.untold:
        found.problems.append(Problem(path, f"{found.untold} further problems are not listed"))
    return Leaves(_sorted(found)), found.problems


def _possible(tables: _Tables, entries: Words, found: _Harvest) -> _Tables:
    """Check sizes and alignment of tables that `entries` lead to; return those to read.

    On the way in, `shift` is log2 of what a whole table maps; on the way out, of one entry.
    """
    bits, shift = tables.bits, tables.shift
    sized = (bits >= 1) & (bits + _MIN_PAGE_SHIFT <= shift)
    aligned = tables.table & ((_EIGHT << bits) - _ONE) == 0
    kept = sized & aligned
    if not kept.all():
        misaligned = sized & ~aligned
        for message, wrong in (
            ("the entry leads to a table of an impossible size", ~sized),
            ("the entry leads to a table that is not aligned to its size", misaligned),
        ):
            found.problem_each(message, entries[wrong], "table-size")
        tables = tables.pick(kept)
    return tables._replace(shift=tables.shift - tables.bits)


def _admit(tables: _Tables, found: _Harvest) -> _Tables:
    """Drop tables that were read before, and those that the budget has no room for."""
    count = len(tables.table)
    places, first_at = np.unique(tables.table, return_index=True)
    new = np.ones(len(places), np.bool_)
    for earlier in found.visited:
        new &= ~_contains(earlier, places)
    found.visited.append(places[new])
    if len(places) < count or not new.all():
        first = np.zeros(count, np.bool_)
        first[first_at[new]] = True
        again = tables.table[~first]
        message = "a table is reached a second time (it is read once)"
        found.problem_each(message, again, "table-twice")
        tables = tables.pick(first)
    largest = int(tables.bits.max(initial=0))
    if count * (8 << largest) > found.budget:
        # Summed as floats: hostile sizes must not wrap around.
        fits = np.cumsum(_EIGHT << tables.bits, dtype=np.float64) <= found.budget
        if not fits.all():
            found.problem(
                f"the tree is too large: {int((~fits).sum())} tables are not read",
                int(tables.table[~fits][0]),
            )
        tables = tables.pick(fits)
    found.budget -= int((_EIGHT << tables.bits).sum())
    return tables


def _contains(ascending: Words, values: Words) -> NDArray[np.bool_]:
    """Say which of `values` are in a column that is ascending."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    there: NDArray[np.bool_] = ascending[at] == values
    return there


def _fronts(tables: _Tables) -> Iterator[_Tables]:
    """Split tables by what makes them alike: size and level."""
    if len(tables.table) == 1:
        yield tables
        return
    kind = tables.bits << _EIGHT | tables.shift
    for one in np.unique(kind):
        alike = kind == one
        yield tables if alike.all() else tables.pick(alike)


def _read_front(memory: Memory, front: _Tables, found: _Harvest) -> Iterator[_Tables]:
    """Read tables that are alike; keep their leaves, return the tables that they lead to."""
    bits, shift = int(front.bits[0]), int(front.shift[0])
    length = 8 << bits
    batch = max(1, _BATCH_BYTES // length)
    if (front.prefix[1:] < front.prefix[:-1]).any():
        found.ascending = False
    for start in range(0, len(front.table), batch):
        tables = front.table[start : start + batch]
        rows, good = read_many(memory, tables, length)
        if not good.all():
            found.problem_each(f"a table of {length} bytes cannot be read", tables[~good])
        # Zero is zero in either byte order: only the other words are turned.
        raw = rows.reshape(-1).view(np.uint64)
        at = np.flatnonzero(raw != 0)
        if not len(at):
            continue
        words = raw[at].view(">u8").astype(np.uint64)
        owner = at >> bits
        index = (at & ((1 << bits) - 1)).astype(np.uint64)
        address = front.prefix[start : start + batch][owner] + (index << np.uint64(shift))
        entry = tables[owner] + index * _EIGHT
        valid = words & _LEAF
        leaf = valid == PTE_LEAF
        leaves = int(np.count_nonzero(leaf))
        if leaves == len(words):
            _keep(words, address, entry, shift, found)
            continue
        if leaves:
            _keep(words[leaf], address[leaf], entry[leaf], shift, found)
        table = valid == PTE_V
        words = words[table]
        if len(words):
            span = np.full(len(words), shift, np.uint64)
            lower = _Tables(words & _NLB, address[table], words & _NLS, span)
            yield _possible(lower, entry[table], found)


def _keep(words: Words, address: Words, entry: Words, shift: int, found: _Harvest) -> None:
    """Add leaves to the harvest. A leaf that hardware would refuse is kept, with a problem."""
    misaligned = words & np.uint64(PTE_RPN & ((1 << shift) - 1)) != 0
    if misaligned.any():
        found.problem_each(f"the page is not aligned to its 2^{shift} bytes", entry[misaligned])
    columns = np.empty(len(words), LEAF)
    columns["address"] = address
    columns["shift"] = shift
    columns["pte"] = words
    found.leaves.append(columns)


def _joined(parts: list[_Tables]) -> _Tables:
    if len(parts) == 1:
        return parts[0]
    none = np.empty(0, np.uint64)
    if not parts:
        return _Tables(none, none, none, none)
    return _Tables(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _sorted(found: _Harvest) -> Columns:
    """Return all leaves by address. Mostly they were found in that order."""
    parts = found.leaves
    if not parts:
        return np.empty(0, LEAF)
    columns = np.concatenate(parts) if len(parts) > 1 else parts[0]
    ends = [part["address"][-1] for part in parts[:-1]]
    starts = [part["address"][0] for part in parts[1:]]
    if not found.ascending or any(end > start for end, start in zip(ends, starts, strict=True)):
        columns = columns[np.argsort(columns["address"], kind="stable")]
    return columns
