"""The rmap of a whole memslot: all its chains, in bulk.

Single entries are decoded as one array, lists are followed front by front
(`rmap_fronts`), an odd list goes to the reader of one chain (`chains`).
"""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.chain_troubles import MAX_CHAIN, MAX_TOLD, Trouble, problem
from nestscope.decoders.chains import read_chain
from nestscope.decoders.rmap_fronts import Gathered, follow
from nestscope.decoders.rmap_words import read_words
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import CHAIN, ENTRY, FORM_LIST, FORM_SINGLE, Chains, Problem
from nestscope.decoders.words.field import ByteOrder
from nestscope.decoders.words.rmap import RMAP_GPA, RMAP_LPID_SHIFT, RMAP_RESERVED, RMAP_SINGLE

MAX_NODES = 1 << 24
"""List nodes of one rmap that are read at most; they would take 256 MiB of the host."""


def read_rmap(
    memory: Memory,
    rmap_array: int,
    npages: int,
    base_gfn: int,
    byteorder: ByteOrder = "little",
    *,
    path: str = "rmap",
    limit: int = MAX_CHAIN,
    max_nodes: int = MAX_NODES,
) -> tuple[Chains, list[Problem]]:
    """Read all chains of a memslot's rmap (`memslot->arch.rmap`), and what is wrong with them.

    `memory` takes kernel virtual addresses, `rmap_array` is that of the first
    word, `npages` their number, `base_gfn` the guest frame of the first.
    Problems have the path `path[gfn N]`. At most `limit` nodes of a list and
    about `max_nodes` in all are read. Nothing is raised; everything readable is
    returned. A list of which nothing can be read is there, without entries.
    """
    at, words, problems = read_words(memory, rmap_array, npages, base_gfn, byteorder, path=path)
    if not len(at):
        return Chains(), problems
    places = np.uint64(rmap_array) + at * np.uint64(8)
    single = words & np.uint64(RMAP_SINGLE) != 0
    lists = np.flatnonzero(~single)
    found = follow(memory, words[lists], places[lists], byteorder, limit=limit, max_nodes=max_nodes)
    found.renumber(lists)
    found.drop_single()
    ones = np.flatnonzero(single)
    found.entries(ones, 0, words[ones])
    odd = ones[words[ones] & np.uint64(RMAP_RESERVED) != 0]
    found.trouble(Trouble.RESERVED, odd, words[odd], places[odd])
    gfns = at + np.uint64(base_gfn)
    told = [
        (which, problem(f"{path}[gfn {gfns[which]}]", what, word, place))
        for which, what, word, place in found.told
    ]
    left = max_nodes - found.nodes
    for which in sorted(found.single):
        where = f"{path}[gfn {gfns[which]}]"
        word, place = int(words[which]), int(places[which])
        if left <= 0:
            told.append((which, problem(where, Trouble.TOO_MANY, word, place)))
            continue
        reading = read_chain(memory, word, byteorder, min(limit, left), path=where, address=place)
        left -= len(reading.nodes)
        room = max(0, MAX_TOLD - len(told))
        told.extend((which, trouble) for trouble in reading.problems[:room])
        found.untold += len(reading.problems[room:])
        packed = [entry.l1_lpid << RMAP_LPID_SHIFT | entry.n_gpa for entry in reading.entries]
        found.run(which, 0, np.array(packed, np.uint64))
    told.sort(key=lambda pair: pair[0])
    problems.extend(trouble for _, trouble in told)
    if found.untold:
        problems.append(Problem(path, f"{found.untold} further problems are not listed"))
    return _columns(gfns, single, found), problems


def _columns(gfns: NDArray[np.uint64], single: NDArray[np.bool_], found: Gathered) -> Chains:
    """Lay entries out chain by chain; each has its depth in its chain."""
    which = np.concatenate(found.which)
    counts = np.bincount(which, minlength=len(gfns))
    first = np.cumsum(counts) - counts
    packed = np.empty(len(which), np.uint64)
    packed[first[which] + np.concatenate(found.depth)] = np.concatenate(found.packed)
    entries = np.empty(len(packed), ENTRY)
    entries["l1_lpid"] = packed >> np.uint64(RMAP_LPID_SHIFT)
    entries["n_gpa"] = packed & np.uint64(RMAP_GPA)
    index = np.empty(len(gfns), CHAIN)
    index["gfn"] = gfns
    index["form"] = np.where(single, FORM_SINGLE, FORM_LIST)
    index["count"] = counts
    index["first"] = first
    return Chains(index, entries)
