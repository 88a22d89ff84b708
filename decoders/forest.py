"""The leaves of many radix trees, read together: one front for all of them.

A VM has a host tree and one shadow tree for each nested guest. Read one by one,
each costs its own calls for each level; here a level of all trees is one array.
Only trees in which nothing is odd are read so: their tables of a level have one
size, are aligned, can be read and are reached once. Any other tree is left to
`trees`, which says what is wrong with it and gives the same leaves for the rest.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.sources.protocol import Memory, read_many
from nestscope.decoders.state import LEAF, Columns, Leaves
from nestscope.decoders.words.pde import PDE_NLB, PDE_NLS
from nestscope.decoders.words.pte import PTE_LEAF, PTE_RPN, PTE_V

Words = NDArray[np.uint64]
Which = NDArray[np.int64]
"""Positions of trees in the caller's order."""

_MAX_BITS = 13
_MIN_PAGE_SHIFT = 12
_BATCH_BYTES = 512 << 10
"""Bytes of tables decoded in one go: so much, with what is made of it, stays in the cache."""

_ROW_BYTES = 512
"""Tables up to this size are worth a look whether all their words are leaves."""


class _Level(NamedTuple):
    """Tables of one level, as columns of one length; those of a tree lie together."""

    table: Words
    prefix: Words
    """The first address that each one maps."""
    tree: Which

    def pick(self, which: NDArray[np.bool_] | slice) -> "_Level":
        return _Level(self.table[which], self.prefix[which], self.tree[which])


class _Found(NamedTuple):
    """Leaves of one level, tree after tree, and how many each tree has."""

    columns: Columns
    counts: Which


def forest_leaves(
    memory: Memory, roots: Iterable[int], root_bits: int, address_bits: int, max_table_bytes: int
) -> list[Leaves | None]:
    """Return the leaves of each tree, ascending; None for a tree that must be read by itself.

    `roots` are addresses of root tables of `2**root_bits` entries; the trees map
    `address_bits` bits. `memory` takes the addresses that the trees hold. A tree
    with more than `max_table_bytes` of tables is not read. Nothing is raised.
    """
    reader = _Reader(memory, list(roots), max_table_bytes)
    reader.run(root_bits, address_bits)
    return reader.leaves()


class _Reader:
    """One run over all trees, level by level."""

    def __init__(self, memory: Memory, roots: list[int], max_table_bytes: int) -> None:
        self._memory = memory
        self._max_table_bytes = max_table_bytes
        self._roots = np.array(roots, np.uint64)
        self._odd = np.zeros(len(roots), np.bool_)
        self._table_bytes = np.zeros(len(roots), np.int64)
        self._visited: list[Words] = []
        """Tables that were read, ascending, level by level."""
        self._found: list[_Found] = []

    def run(self, bits: int, shift: int) -> None:
        """Read all levels, beginning with tables of `2**bits` entries that map `2**shift` bytes."""
        count = len(self._roots)
        level = _Level(self._roots, np.zeros(count, np.uint64), np.arange(count))
        while len(level.table):
            shift -= bits
            if not 1 <= bits <= _MAX_BITS or shift < _MIN_PAGE_SHIFT:
                self._odd[level.tree] = True
                return
            level = self._admit(level, 8 << bits)
            pointers, lower = self._read(level, bits, shift)
            if not len(pointers):
                return
            sizes = pointers & np.uint64(PDE_NLS)
            bits = int(sizes[0])
            lower = lower._replace(table=pointers & np.uint64(PDE_NLB))
            level = self._without(lower, sizes != sizes[0])

    def _without(self, level: _Level, odd: NDArray[np.bool_]) -> _Level:
        """Give up the trees that have an odd table; return the tables of the others."""
        if not odd.any():
            return level
        self._odd[level.tree[odd]] = True
        return level.pick(~self._odd[level.tree])

    def _admit(self, level: _Level, length: int) -> _Level:
        """Check the tables of a level before they are read."""
        level = self._without(level, level.table & np.uint64(length - 1) != 0)
        ordered = np.sort(level.table)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        again = [_common(earlier, ordered) for earlier in self._visited]
        if len(twice) or any(map(len, again)):
            level = self._without(level, np.isin(level.table, np.concatenate([twice, *again])))
        self._visited.append(ordered)
        self._table_bytes += np.bincount(level.tree, minlength=len(self._odd)) * length
        return self._without(level, self._table_bytes[level.tree] > self._max_table_bytes)

    def _read(self, level: _Level, bits: int, shift: int) -> tuple[Words, _Level]:
        """Read a level: keep its leaves, return the words that lead to tables, and whose they are.

        The `table` column of the second is not of use yet.
        """
        length = 8 << bits
        batch = max(1, _BATCH_BYTES // length)
        harvest = _Harvest(len(level.table) << bits, bits, shift, len(self._odd))
        pointers: list[tuple[Words, Words, Which]] = []
        for start in range(0, len(level.table), batch):
            part = level.pick(slice(start, start + batch))
            rows, good = read_many(self._memory, part.table, length)
            if not good.all():
                self._odd[part.tree[~good]] = True
            raw = rows.reshape(-1).view(np.uint64)
            if length > _ROW_BYTES or not harvest.take_full(raw, part):
                pointers.append(harvest.take(raw, part))
        self._odd |= harvest.odd
        self._found.append(harvest.found())
        if not pointers:
            none = np.empty(0, np.uint64)
            return none, _Level(none, none, np.empty(0, np.int64))
        words, prefix, tree = (np.concatenate(column) for column in zip(*pointers, strict=True))
        if self._odd.any():
            kept = ~self._odd[tree]
            words, prefix, tree = words[kept], prefix[kept], tree[kept]
        return words, _Level(words, prefix, tree)

    def leaves(self) -> list[Leaves | None]:
        """Return what was found, tree by tree."""
        levels = [found for found in self._found if len(found.columns)]
        ends = [np.cumsum(found.counts).tolist() for found in levels]
        result: list[Leaves | None] = []
        for tree, odd in enumerate(self._odd.tolist()):
            if odd:
                result.append(None)
                continue
            parts = []
            for found, end in zip(levels, ends, strict=True):
                part = found.columns[end[tree - 1] if tree else 0 : end[tree]]
                if len(part):
                    parts.append(part)
            result.append(Leaves(_by_address(parts)))
        return result


class _Harvest:
    """The leaves of one level, put in their place as they are found."""

    def __init__(self, words: int, bits: int, shift: int, trees: int) -> None:
        """Prepare for at most `words` leaves of `2**shift` bytes, in tables of `2**bits`."""
        self._room = words
        self._bits = bits
        self._shift = np.uint64(shift)
        self._below_page = np.uint64(PTE_RPN & ((1 << shift) - 1))
        self._offsets = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._columns = np.empty(0, LEAF)
        self._used = 0
        self._counts = np.zeros(trees, np.int64)
        self.odd = np.zeros(trees, np.bool_)

    def take_full(self, raw: Words, part: _Level) -> bool:
        """Take tables in which each word is a leaf: no search is needed. Say if they were so."""
        if not len(raw) or not raw.min():
            return False
        words = raw.byteswap()
        # A leaf has the two highest bits set.
        if words.min() < PTE_LEAF or np.bitwise_or.reduce(words) & self._below_page:
            return False
        address = (part.prefix[:, np.newaxis] + self._offsets).reshape(-1)
        self._keep(words, address)
        self._counts += np.bincount(part.tree, minlength=len(self._counts)) << self._bits
        return True

    def take(self, raw: Words, part: _Level) -> tuple[Words, Words, Which]:
        """Take the leaves; return words that lead to tables, what they map, and their trees."""
        # Zero is zero in either byte order: only the other words are turned.
        at = np.flatnonzero(raw != 0)
        words = raw[at].byteswap()
        owner = at >> self._bits
        address = part.prefix[owner] + self._offsets[at & len(self._offsets) - 1]
        tree = part.tree[owner]
        kind = words & np.uint64(PTE_LEAF)
        leaf = kind == PTE_LEAF
        if leaf.any():
            misaligned = leaf & (words & self._below_page != 0)
            if misaligned.any():
                self.odd[tree[misaligned]] = True
            self._keep(words[leaf], address[leaf])
            self._counts += np.bincount(tree[leaf], minlength=len(self._counts))
        table = kind == PTE_V
        return words[table], address[table], tree[table]

    def _keep(self, words: Words, address: Words) -> None:
        if not len(self._columns):
            # Room for all that can come: what stays unused never becomes real memory.
            self._columns = np.empty(self._room, LEAF)
        columns = self._columns[self._used : self._used + len(words)]
        columns["address"] = address
        columns["shift"] = self._shift
        columns["pte"] = words
        self._used += len(words)

    def found(self) -> _Found:
        """Return all leaves that were taken."""
        return _Found(self._columns[: self._used], self._counts)


def _common(one: Words, other: Words) -> Words:
    """Return the values that are in both of two ascending columns."""
    few, many = (one, other) if len(one) < len(other) else (other, one)
    if not len(few):
        return few
    at = np.minimum(np.searchsorted(many, few), len(many) - 1)
    both: Words = few[many[at] == few]
    return both


def _by_address(parts: list[Columns]) -> Columns:
    """Join the leaves of one tree that were found on several levels."""
    if not parts:
        return np.empty(0, LEAF)
    if len(parts) == 1:
        return parts[0]
    columns = np.concatenate(parts)
    return columns[np.argsort(columns["address"], kind="stable")]
