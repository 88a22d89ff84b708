"""The leaves of a small tree without faults, at the cost of few microseconds a table.

Most trees of a lab have a handful of tables, and all of them are read at every
step. There, arrays cost more than numbers. What is large, malformed or
unreadable is left to `trees`, which gives the same leaves for every tree.
"""

import numpy as np

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory, read_many
from nestscope.decoders.state import Leaves
from nestscope.decoders.words.pde import PDE_NLB, PDE_NLS
from nestscope.decoders.words.pte import PTE_LEAF, PTE_RPN, PTE_V

SMALL_TREE_BYTES = 1 << 20
"""No small tree has more bytes of tables than this."""

_MAX_TABLES = 64
_MAX_WORDS = 128
_MAX_BITS = 13
_MIN_PAGE_SHIFT = 12

_Table = tuple[int, int]
"""Address of a table, first address that it maps."""


def small_tree(memory: Memory, root: int, root_bits: int, address_bits: int) -> Leaves | None:
    """Return the leaves of a small tree; None if it is not small or not without faults.

    The parameters are those of `trees.tree_leaves`. Tables of one level are
    expected to have one size. Nothing is raised.
    """
    leaves: list[tuple[int, int, int]] = []
    seen: set[int] = set()
    level: list[_Table] = [(root, 0)]
    bits, shift = root_bits, address_bits
    while level:
        seen_before = len(seen)
        seen.update(table for table, _ in level)
        if len(seen) != seen_before + len(level) or len(seen) > _MAX_TABLES:
            return None
        shift -= bits
        words = _words_of(memory, level, bits, shift)
        if words is None:
            return None
        lower: list[_Table] = []
        sizes: set[int] = set()
        for address, word in words:
            kind = word & PTE_LEAF
            if kind == PTE_LEAF:
                if word & PTE_RPN & ((1 << shift) - 1):
                    return None
                leaves.append((address, shift, word))
            elif kind == PTE_V:
                lower.append((word & PDE_NLB, address))
                sizes.add(word & PDE_NLS)
        if len(sizes) > 1:
            return None
        level = lower
        bits = sizes.pop() if sizes else 0
    return Leaves.build(leaves)


def _words_of(
    memory: Memory, level: list[_Table], bits: int, shift: int
) -> list[tuple[int, int]] | None:
    """Read the tables of a level: (address that a word maps, word) of every word but 0."""
    if not 1 <= bits <= _MAX_BITS or shift < _MIN_PAGE_SHIFT:
        return None
    length = 8 << bits
    if any(table % length for table, _ in level):
        return None
    if len(level) == 1:
        try:
            data = memory.read(level[0][0], length)
        except UnreadableMemoryError:
            return None
        raw = np.frombuffer(data, np.uint64)
    else:
        tables = np.array([table for table, _ in level], np.uint64)
        rows, good = read_many(memory, tables, length)
        if not good.all():
            return None
        raw = rows.reshape(-1).view(np.uint64)
    at = (raw != 0).nonzero()[0]
    if len(at) > _MAX_WORDS:
        return None
    mask = (1 << bits) - 1
    words = raw[at].view(">u8").tolist()
    return [
        (level[index >> bits][1] + ((index & mask) << shift), word)
        for index, word in zip(at.tolist(), words, strict=True)
    ]
