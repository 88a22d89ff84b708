"""Many chains of an rmap at once: all their next nodes are read together.

A million entries cost as many Python calls as the longest list has nodes. Lists
that turn out cyclic or very long, or that are left over when few remain, are
handed back: the reader of one chain does those.
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
from nestscope.decoders.sources.protocol import Memory, read_many
from nestscope.decoders.words.field import ByteOrder
from nestscope.decoders.words.rmap import RMAP_NESTED_SIZE, RMAP_RESERVED, RMAP_SINGLE

Words = NDArray[np.uint64]
Which = NDArray[np.int64]
"""Positions of chains in the caller's order."""

Told = tuple[int, Trouble, int, int]
"""Position of the chain, what is wrong, the word, the address where it lies."""

FEW = 16
"""So many lists, or fewer, are quicker one by one."""

_RESERVED_IN_NODE = RMAP_RESERVED | RMAP_SINGLE


@dataclass
class Gathered:
    """Entries (chain, packed word) in the order of their depth, and troubles."""

    which: list[Which] = field(default_factory=list)
    packed: list[Words] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    untold: int = 0
    single: list[int] = field(default_factory=list)
    """Chains to be read one by one, from their head."""
    nodes: int = 0

    def entries(self, which: Which, packed: Words) -> None:
        """Add one entry for each chain of `which`."""
        if len(which):
            self.which.append(which)
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
        if not self.single or not self.which:
            return
        again = np.array(self.single)
        keep = [~np.isin(which, again) for which in self.which]
        self.which = [which[kept] for which, kept in zip(self.which, keep, strict=True)]
        self.packed = [packed[kept] for packed, kept in zip(self.packed, keep, strict=True)]
        once = set(self.single)
        self.told = [row for row in self.told if row[0] not in once]


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
    order = ">u8" if byteorder == "big" else "<u8"
    which = np.arange(len(heads), dtype=np.int64)
    words = heads
    mark = words
    depth = 0
    while True:
        going = _still_going(found, which, words, places)
        which, words, places, mark = _keep(going, which, words, places, mark)
        if depth:
            cyclic = words == mark
            if cyclic.any():
                found.single.extend(which[cyclic].tolist())
                which, words, places, mark = _keep(~cyclic, which, words, places, mark)
            if depth & (depth - 1) == 0:
                # Brent: remember where each list is at every power of two.
                mark = words
        if len(which) <= FEW or depth >= limit:
            found.single.extend(which.tolist())
            break
        room = max_nodes - found.nodes
        if len(which) > room:
            found.trouble(Trouble.TOO_MANY, which[room:], words[room:], places[room:])
            first = np.arange(len(which)) < room
            which, words, places, mark = _keep(first, which, words, places, mark)
        rows, good = read_many(memory, words, RMAP_NESTED_SIZE)
        found.nodes += len(which)
        if not good.all():
            found.trouble(Trouble.UNREADABLE, which[~good], words[~good], places[~good])
            rows = rows[good]
            which, words, places, mark = _keep(good, which, words, places, mark)
        nodes = rows.view(order).astype(np.uint64)
        entries = nodes[:, 1]
        found.entries(which, entries)
        odd = entries & np.uint64(_RESERVED_IN_NODE) != 0
        if odd.any():
            places = words[odd] + np.uint64(8)
            found.trouble(Trouble.RESERVED, which[odd], entries[odd], places)
        places, words = words, nodes[:, 0]
        depth += 1
    return found


def _keep(
    kept: NDArray[np.bool_], which: Which, words: Words, places: Words, mark: Words
) -> tuple[Which, Words, Words, Words]:
    return which[kept], words[kept], places[kept], mark[kept]


def _still_going(found: Gathered, which: Which, words: Words, places: Words) -> NDArray[np.bool_]:
    """Gather the entries and troubles that end a list; return which lists go on."""
    tail = words & np.uint64(RMAP_SINGLE) != 0
    entries = words[tail]
    found.entries(which[tail], entries)
    odd = entries & np.uint64(RMAP_RESERVED) != 0
    if odd.any():
        found.trouble(Trouble.RESERVED, which[tail][odd], entries[odd], places[tail][odd])
    null = words == 0
    unaligned = ~tail & ~null & (words % np.uint64(NODE_ALIGN) != 0)
    inside = words & np.uint64(LINEAR_MAP_MASK) == np.uint64(LINEAR_MAP)
    wild = ~tail & ~null & ~unaligned & ~inside
    for what, those in (
        (Trouble.NULL_NEXT, null),
        (Trouble.UNALIGNED, unaligned),
        (Trouble.WILD, wild),
    ):
        if those.any():
            found.trouble(what, which[those], words[those], places[those])
    going: NDArray[np.bool_] = ~tail & ~null & ~unaligned & inside
    return going
