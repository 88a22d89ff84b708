"""The nested rmap of a memslot: its array of words, and the nodes of its lists.

`kvmppc_core_prepare_memory_region_hv` takes the array from vmalloc,
`kvmhv_nested_page_fault` the nodes from the slab, which is in the linear map.
Both are in the kernel's own byte order.
"""

import numpy as np

from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.state import FORM_LIST, FORM_SINGLE, Chains, Memslot
from nestscope.decoders.words.rmap import (
    RMAP_GPA,
    RMAP_LPID_SHIFT,
    RMAP_NESTED_SIZE,
    RMAP_SINGLE,
)
from nestscope.sim.image.arena import Arena, Numbers, Vmalloc
from nestscope.sim.image.errors import ImageError

_ONE = np.uint64(RMAP_SINGLE)


def build_rmap(arena: Arena, vmalloc: Vmalloc, memslot: Memslot, order: str) -> int:
    """Lay out `memslot->arch.rmap` with all chains; return the array's kernel address.

    `order` is the byte order of the kernel's data, as a character (<, >).

    Raises:
        ImageError: if a chain is not one that the kernel can hold.
    """
    area = vmalloc.allocate(8 * memslot.npages)
    chains = memslot.rmap
    if len(chains):
        _check(chains, memslot)
        index = chains.index["gfn"] - np.uint64(memslot.base_gfn)
        area.store(index, _lists(arena, chains, order), order)
    return area.address


def _check(chains: Chains, memslot: Memslot) -> None:
    where = f"memslot {memslot.id}"
    gfn, form, count = chains.index["gfn"], chains.index["form"], chains.index["count"]
    base, end = np.uint64(memslot.base_gfn), np.uint64(memslot.base_gfn + memslot.npages)
    if (gfn < base).any() or (gfn >= end).any():
        raise ImageError(f"{where} has a chain of a gfn that is not in it")
    as_single = (form == FORM_SINGLE) & (count == 1)
    as_list = (form == FORM_LIST) & (count > 1)
    if not (as_single | as_list).all():
        raise ImageError(f"{where} has a chain whose form does not fit its number of entries")
    if (chains.entries["l1_lpid"] >= 1 << 64 - RMAP_LPID_SHIFT).any() or (
        chains.entries["n_gpa"] & np.uint64(~RMAP_GPA & (1 << 64) - 1)
    ).any():
        raise ImageError(f"{where} has an rmap entry that does not fit its 52 bits")


def _lists(arena: Arena, chains: Chains, order: str) -> Numbers:
    """Lay out the nodes of all lists; return the rmap word of each chain."""
    count = chains.index["count"].astype(np.int64)
    ends = np.cumsum(count)
    starts = ends - count
    # Entries of chain after chain, wherever the State keeps them.
    shift = np.repeat(chains.index["first"].astype(np.int64) - starts, count)
    entries = chains.entries[np.arange(len(shift)) + shift]
    packed = entries["l1_lpid"].astype(np.uint64) << np.uint64(RMAP_LPID_SHIFT)
    packed |= entries["n_gpa"]
    # The last entry of a chain has no node: it is in the word that leads there.
    is_last = np.zeros(len(packed), np.bool_)
    is_last[ends - 1] = True
    nodes = int(np.count_nonzero(~is_last))
    region = arena.region(nodes * RMAP_NESTED_SIZE)
    place = arena.order(nodes)
    leads_here = packed | _ONE
    leads_here[~is_last] = np.uint64(LINEAR_START + region.start) + (
        place.astype(np.uint64) * np.uint64(RMAP_NESTED_SIZE)
    )
    has_node = np.flatnonzero(~is_last)
    table = region.data.view(order + "u8").reshape(-1, 2)
    table[place, 0] = leads_here[has_node + 1]
    table[place, 1] = packed[has_node]
    words: Numbers = leads_here[starts]
    return words
