"""Many chains of an rmap at once: all their next nodes are read together.

A million entries cost as many Python calls as the longest list has nodes. When
few lists remain they are followed one by one. Lists in which something is odd
that arrays cannot tell (a cycle, too many nodes) are handed back: the reader of
one chain does those, from their head.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.chain_troubles import (
    LINEAR_MAP,
    LINEAR_MAP_MASK,
    MAX_TOLD,
    NODE_ALIGN,
    Trouble,
)
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory, read_many
from nestscope.decoders.words.field import ByteOrder
from nestscope.decoders.words.rmap import RMAP_NESTED_SIZE, RMAP_RESERVED, RMAP_SINGLE

Words = NDArray[np.uint64]
Which = NDArray[np.int64]
"""Positions of chains in the caller's order."""

Told = tuple[int, Trouble, int, int]
"""Position of the chain, what is wrong, the word, the address where it lies."""

FEW = 8
"""So many lists, or fewer, are quicker one by one."""

_RESERVED_IN_NODE = RMAP_RESERVED | RMAP_SINGLE
_POINTER_MASK = LINEAR_MAP_MASK | NODE_ALIGN - 1
"""Bits of a word that say whether it can be followed: it then equals LINEAR_MAP in them."""


@dataclass
class Gathered:
    """Entries (chain, depth in it, packed word), and troubles.

    The entries of a chain have the depths 0, 1, 2, ... from its head.
    """

    which: list[Which] = field(default_factory=list)
    depth: list[Which] = field(default_factory=list)
    packed: list[Words] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    untold: int = 0
    single: list[int] = field(default_factory=list)
    """Chains to be read one by one, from their head."""
    nodes: int = 0

    def entries(self, which: Which, depth: int, packed: Words) -> None:
        """Add one entry for each chain of `which`."""
        self.which.append(which)
        self.depth.append(np.full(len(which), depth))
        self.packed.append(packed)

    def run(self, chain: int, depth: int, packed: Words) -> None:
        """Add consecutive entries of one chain, the first of them at `depth`."""
        self.which.append(np.full(len(packed), chain))
        self.depth.append(np.arange(depth, depth + len(packed)))
        self.packed.append(packed)

    def trouble(self, what: Trouble, which: Which, words: Words, places: Words) -> None:
        """Add one trouble for each chain of `which`."""
        room = max(0, MAX_TOLD - len(self.told))
        rows = zip(
            which[:room].tolist(), words[:room].tolist(), places[:room].tolist(), strict=True
        )
        self.told.extend((chain, what, word, place) for chain, word, place in rows)
        self.untold += max(0, len(which) - room)

    def renumber(self, chains: Which) -> None:
        """Turn positions in `chains` into what they hold."""
        self.which = [chains[which] for which in self.which]
        self.told = [(int(chains[row[0]]), *row[1:]) for row in self.told]
        self.single = [int(chains[which]) for which in self.single]

    def drop_single(self) -> None:
        """Forget what was gathered of the chains in `single`."""
        if not self.single:
            return
        again = np.array(self.single)
        keep = [~np.isin(which, again) for which in self.which]
        self.which = [column[kept] for column, kept in zip(self.which, keep, strict=True)]
        self.depth = [column[kept] for column, kept in zip(self.depth, keep, strict=True)]
        self.packed = [column[kept] for column, kept in zip(self.packed, keep, strict=True)]
        once = set(self.single)
        self.told = [row for row in self.told if row[0] not in once]


class _Front:
    """The lists that go on, as columns of one length."""

    def __init__(self, heads: Words, places: Words) -> None:
        self.which: Which = np.arange(len(heads), dtype=np.int64)
        self.words = heads
        self.places = places
        self.mark = heads
        """Where each list was at the last power of two (Brent's way to find cycles)."""

    def keep(self, kept: NDArray[np.bool_]) -> None:
        self.which, self.words = self.which[kept], self.words[kept]
        self.places, self.mark = self.places[kept], self.mark[kept]


def follow(
    memory: Memory,
    heads: Words,
    places: Words,
    byteorder: ByteOrder,
    *,
    limit: int,
    max_nodes: int,
) -> Gathered:
    """Follow the lists that begin at `heads` (rmap words, host order; `places` is where they lie).

    At most `limit` nodes of a list and `max_nodes` in all are read.
    """
    found = Gathered()
    front = _Front(heads, places)
    depth = 0
    while len(front.which):
        going = front.words & np.uint64(_POINTER_MASK) == LINEAR_MAP
        if not going.all():
            ended = ~going
            _end(found, depth, front.which[ended], front.words[ended], front.places[ended])
            front.keep(going)
        if depth:
            cyclic = front.words == front.mark
            if cyclic.any():
                found.single.extend(front.which[cyclic].tolist())
                front.keep(~cyclic)
            if depth & (depth - 1) == 0:
                front.mark = front.words
        if len(front.which) <= FEW or depth >= limit:
            _finish(memory, found, front, depth, byteorder, limit, max_nodes)
            break
        _step(memory, found, front, depth, byteorder, max_nodes)
        depth += 1
    return found


def _step(
    memory: Memory,
    found: Gathered,
    front: _Front,
    depth: int,
    byteorder: ByteOrder,
    max_nodes: int,
) -> None:
    """Read the next node of every list; keep their entries."""
    room = max_nodes - found.nodes
    if len(front.which) > room:
        left = front.which[room:], front.words[room:], front.places[room:]
        found.trouble(Trouble.TOO_MANY, *left)
        front.keep(np.arange(len(front.which)) < room)
    rows, good = read_many(memory, front.words, RMAP_NESTED_SIZE)
    found.nodes += len(front.which)
    if not good.all():
        bad = ~good
        found.trouble(Trouble.UNREADABLE, front.which[bad], front.words[bad], front.places[bad])
        rows = rows[good]
        front.keep(good)
    nodes = rows.view(">u8" if byteorder == "big" else "<u8").astype(np.uint64, copy=False)
    entries = nodes[:, 1]
    found.entries(front.which, depth, entries)
    odd = entries & np.uint64(_RESERVED_IN_NODE) != 0
    if odd.any():
        where = front.words[odd] + np.uint64(8)
        found.trouble(Trouble.RESERVED, front.which[odd], entries[odd], where)
    front.places, front.words = front.words, nodes[:, 0]


def _finish(
    memory: Memory,
    found: Gathered,
    front: _Front,
    depth: int,
    byteorder: ByteOrder,
    limit: int,
    max_nodes: int,
) -> None:
    """Follow the lists that remain one by one; those in which anything is odd are handed back."""
    for chain, head in zip(front.which.tolist(), front.words.tolist(), strict=True):
        entries = _rest(memory, head, byteorder, min(limit - depth, max_nodes - found.nodes))
        if entries is None:
            found.single.append(chain)
        else:
            found.nodes += len(entries) - 1
            found.run(chain, depth, np.array(entries, np.uint64))


def _rest(memory: Memory, word: int, byteorder: ByteOrder, limit: int) -> list[int] | None:
    """Return the packed entries of a list from its node at `word` on; None if it is odd."""
    entries: list[int] = []
    visited: set[int] = set()
    while not word & RMAP_SINGLE:
        if word & _POINTER_MASK != LINEAR_MAP or word in visited or len(visited) >= limit:
            return None
        visited.add(word)
        try:
            node = memory.read(word, RMAP_NESTED_SIZE)
        except UnreadableMemoryError:
            return None
        entry = int.from_bytes(node[8:], byteorder)
        if entry & _RESERVED_IN_NODE:
            return None
        entries.append(entry)
        word = int.from_bytes(node[:8], byteorder)
    if word & RMAP_RESERVED:
        return None
    entries.append(word)
    return entries


def _end(found: Gathered, depth: int, which: Which, words: Words, places: Words) -> None:
    """Gather the entries that end a list, and the troubles of lists that cannot be followed."""
    tail = words & np.uint64(RMAP_SINGLE) != 0
    entries = words[tail]
    found.entries(which[tail], depth, entries)
    odd = entries & np.uint64(RMAP_RESERVED) != 0
    if odd.any():
        found.trouble(Trouble.RESERVED, which[tail][odd], entries[odd], places[tail][odd])
    if tail.all():
        return
    null = words == 0
    unaligned = ~tail & ~null & (words % np.uint64(NODE_ALIGN) != 0)
    for what, those in (
        (Trouble.NULL_NEXT, null),
        (Trouble.UNALIGNED, unaligned),
        (Trouble.WILD, ~tail & ~null & ~unaligned),
    ):
        if those.any():
            found.trouble(what, which[those], words[those], places[those])
