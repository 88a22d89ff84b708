"""Large States for benchmarks, made as columns: a guest of 1 TiB takes seconds.

They keep the invariants of a real host: every shadow leaf has its rmap entry,
in the chain of the gfn whose host page it maps.
"""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.state import (
    CHAIN,
    ENTRY,
    FORM_LIST,
    FORM_SINGLE,
    LEAF,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Source,
    State,
    Vm,
)
from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_LEAF,
    PTE_R,
)
from nestscope.sim.image.arena import Numbers
from nestscope.sim.image.errors import ImageError

_RWX = PTE_EAA_READ | PTE_EAA_WRITE | PTE_EAA_EXECUTE
_HOST_PTE = PTE_LEAF | PTE_R | PTE_C | _RWX
_SHADOW_PTE = PTE_LEAF | PTE_R | PTE_EAA_READ
_PATE = 0xC000_0000_0000_00AD
_NESTED_START = 1 << 32
"""Nested real address of the first shadow leaf of each nested guest."""


def synthetic_state(
    *,
    gfns: int,
    entries: int,
    chain_max: int = 64,
    nested: int = 32,
    host_leaves: int | None = None,
    page_shift: int = 16,
    seed: int = 1,
) -> State:
    """Return a State of one VM with one memslot of `gfns` base pages.

    `entries` rmap entries are spread over chains of 1 to `chain_max` entries at
    random gfns, the nested guests take turns; each entry has its shadow leaf.
    The first `host_leaves` gfns (all by default) have a host leaf of a base page.

    Raises:
        ImageError: if there are not enough gfns for the chains, or no nested
            guests for the entries.
    """
    if host_leaves is None:
        host_leaves = gfns
    random = np.random.default_rng(seed)
    counts = _chain_lengths(random, entries, chain_max)
    if len(counts) > host_leaves or host_leaves > gfns or (entries and not 0 < nested < 4096):
        raise ImageError(
            f"{entries} entries in chains up to {chain_max} need {len(counts)} gfns with a host "
            f"leaf (there are {host_leaves} of {gfns}) and 1 to 4095 nested guests"
        )
    chosen = random.choice(host_leaves, len(counts), replace=False, shuffle=False)
    chosen.sort()
    # Entry j is mapping `name[j] // nested` of nested guest `1 + name[j] % nested`.
    name = random.permutation(entries).astype(np.uint64)
    lpid = name % np.uint64(max(nested, 1)) + np.uint64(1)
    n_gpa = np.uint64(_NESTED_START) + (name // np.uint64(max(nested, 1)) << np.uint64(page_shift))
    gfn = np.repeat(chosen, counts).astype(np.uint64)
    slot = Memslot(
        id=0,
        base_gfn=0,
        npages=gfns,
        userspace_addr=0x1000_0000_0000,
        flags=0,
        rmap_array=0,
        rmap=_chains(chosen, counts, lpid, n_gpa),
    )
    host = np.arange(host_leaves, dtype=np.uint64)
    vm = Vm(
        kvm=0,
        lpid=1,
        radix=True,
        mmu_lock_held=False,
        l1_ptcr=0x4_0004,
        memslots=(slot,),
        host_leaves=_leaves(host << np.uint64(page_shift), host, page_shift, _HOST_PTE),
        nested=tuple(
            _nested_guest(number, n_gpa[lpid == number], gfn[lpid == number], page_shift)
            for number in range(1, nested + 1)
        ),
    )
    source = Source("model", f"synthetic {gfns << page_shift >> 30} GiB")
    return State(source, KernelInfo("synthetic", page_shift), (vm,))


def _chain_lengths(random: np.random.Generator, entries: int, longest: int) -> NDArray[np.int64]:
    """Return random lengths from 1 to `longest` that add up to `entries`."""
    drawn = random.integers(1, longest + 1, entries)  # enough even if all are 1
    ends = np.cumsum(drawn)
    last = int(np.searchsorted(ends, entries))
    lengths: NDArray[np.int64] = drawn[: last + 1]
    if entries:
        lengths[last] -= ends[last] - entries
    return lengths


def _chains(
    gfns: NDArray[np.int64], counts: NDArray[np.int64], lpid: Numbers, n_gpa: Numbers
) -> Chains:
    index = np.empty(len(gfns), CHAIN)
    index["gfn"] = gfns
    index["count"] = counts
    index["first"] = np.cumsum(counts) - counts
    index["form"] = np.where(counts > 1, FORM_LIST, FORM_SINGLE)
    entries = np.empty(len(lpid), ENTRY)
    entries["l1_lpid"] = lpid
    entries["n_gpa"] = n_gpa
    return Chains(index, entries)


def _leaves(address: Numbers, gfn: Numbers, page_shift: int, bits: int) -> Leaves:
    """Return base-page leaves at `address`, ascending, that map the host pages of `gfn`."""
    columns = np.empty(len(address), LEAF)
    columns["address"] = address
    columns["shift"] = page_shift
    columns["pte"] = (_frame_of(gfn) << np.uint64(page_shift)) | np.uint64(bits)
    return Leaves(columns)


def _frame_of(gfn: Numbers) -> Numbers:
    """Return the host frame behind a gfn: 2 MiB and more lie together, as a host gives them."""
    block = gfn >> np.uint64(5)
    # An odd factor is one-to-one modulo a power of two.
    block = block * np.uint64(0x9E3779B1) & np.uint64((1 << 28) - 1)
    return block << np.uint64(5) | gfn & np.uint64(31)


def _nested_guest(lpid: int, n_gpa: Numbers, gfn: Numbers, page_shift: int) -> NestedGuest:
    order = np.argsort(n_gpa)
    return NestedGuest(
        l1_lpid=lpid,
        shadow_lpid=lpid + 1,
        refcnt=1,
        l1_gr_to_hr=_PATE | 0x10_0000 + (lpid << 16),
        process_table=0,
        shadow_pgtable=0,
        leaves=_leaves(n_gpa[order], gfn[order], page_shift, _SHADOW_PTE),
    )
