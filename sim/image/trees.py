"""A radix tree laid out from its leaves: whole levels at once, from the last one up.

Tables are big-endian whatever the kernel's byte order is (pgtable-be-types.h).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.state import Columns
from nestscope.decoders.words.pde import PDE_V
from nestscope.decoders.words.pte import PTE_LEAF
from nestscope.sim.image.arena import Arena, Numbers
from nestscope.sim.image.errors import ImageError

ADDRESS_BITS = 52
GEOMETRY = {12: (13, 9, 9, 9), 16: (13, 9, 9, 5)}
"""Index bits of each level, root first, by log2 of the kernel's base page size."""


class _Tables(NamedTuple):
    """Tables of one level: which part of the address space each maps, and where it is."""

    number: Numbers
    address: Numbers
    bits: int


def build_tree(arena: Arena, leaves: Columns, geometry: Sequence[int]) -> int:
    """Lay out the tree with `leaves` (LEAF columns); return the root's physical address.

    `geometry` has the index bits of each level, root first. A leaf may be at
    any level; its `shift` says at which.

    Raises:
        ImageError: if no tree of this geometry has these leaves.
    """
    shifts = [ADDRESS_BITS - sum(geometry[: level + 1]) for level in range(len(geometry))]
    address = np.ascontiguousarray(leaves["address"])
    shift = np.ascontiguousarray(leaves["shift"])
    _check(address, shift, leaves, shifts)
    below: _Tables | None = None
    for bits, level_shift in zip(reversed(geometry), reversed(shifts), strict=True):
        here = shift == level_shift
        every = bool(here.all())
        numbers = (address if every else address[here]) >> np.uint64(level_shift)
        words = leaves["pte"] if every else leaves["pte"][here]
        is_root = bits == geometry[0] and level_shift == shifts[0]
        below = _level(arena, numbers, words, below, bits, is_root=is_root)
    assert below is not None
    return int(below.address[0])


def _check(
    address: Numbers, shift: NDArray[np.uint8], leaves: Columns, shifts: Sequence[int]
) -> None:
    """Leaves are at levels that exist, aligned, ascending, and do not overlap."""
    if not len(leaves):
        return
    size = np.left_shift(np.uint64(1), shift.astype(np.uint64))
    wrong = ~np.isin(shift, shifts)
    wrong |= address & (size - np.uint64(1)) != 0
    wrong |= address >= np.uint64(1 << ADDRESS_BITS)
    wrong |= leaves["pte"] & np.uint64(PTE_LEAF) != np.uint64(PTE_LEAF)
    wrong[1:] |= address[:-1] + size[:-1] > address[1:]
    if wrong.any():
        which, bits, pte = leaves[int(np.argmax(wrong))].item()
        raise ImageError(
            f"no tree with levels of shift {', '.join(map(str, shifts))} can hold the leaf "
            f"{pte:#x} of shift {bits} at {which:#x} next to the others"
        )


def _level(
    arena: Arena,
    numbers: Numbers,
    ptes: Numbers,
    below: _Tables | None,
    bits: int,
    *,
    is_root: bool,
) -> _Tables:
    """Lay out all tables of one level: leaves at entry `numbers`, and the tables `below`."""
    width = np.uint64(bits)
    mask = np.uint64((1 << bits) - 1)
    runs, lengths = _runs(numbers >> width)
    parts = [runs]
    if below is not None:
        parts.append(below.number >> width)
    if is_root:
        parts.append(np.zeros(1, np.uint64))
    tables = np.unique(np.concatenate(parts))
    region = arena.region(len(tables) * (8 << bits))
    place = arena.order(len(tables))
    words = region.data.view(">u8")
    first = place << bits  # number of the first word of each table
    if len(numbers):
        table_of = np.repeat(first[np.searchsorted(tables, runs)], lengths)
        words[table_of + (numbers & mask).astype(np.int64)] = ptes
    if below is not None and len(below.number):
        table_of = first[np.searchsorted(tables, below.number >> width)]
        pdes = np.uint64(PDE_V) | below.address | np.uint64(below.bits)
        words[table_of + (below.number & mask).astype(np.int64)] = pdes
    addresses = np.uint64(region.start) + place.astype(np.uint64) * np.uint64(8 << bits)
    return _Tables(tables, addresses, bits)


def _runs(values: Numbers) -> tuple[Numbers, NDArray[np.int64]]:
    """Return each value of an ascending column once, and how often it is there."""
    if not len(values):
        return values, np.empty(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    return values[starts], np.diff(starts, append=len(values))
