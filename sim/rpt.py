"""H_RPT_INVALIDATE: the newer form of the guest's invalidations (transition 17)."""

from nestscope.sim.constants import (
    H_P2,
    H_P4,
    H_P5,
    H_SUCCESS,
    H_UNSUPPORTED,
    U64,
)
from nestscope.sim.errors import HostDamageError
from nestscope.sim.kvm import Kvm
from nestscope.sim.steps import Steps
from nestscope.sim.tlbie import tlbie_one_lpid, tlbie_tlb_addr

TARGET_CMMU = 1
TYPE_NESTED, TYPE_TLB, TYPE_PWC, TYPE_PAT = 1, 2, 4, 8
TYPE_NESTED_ALL = TYPE_TLB | TYPE_PWC | TYPE_PAT
PAGE_SIZES = ((1, 12), (2, 16), (4, 21), (8, 30))
"""`mmu_psize_defs` in the order of MMU_PAGE_*: bit of `pg_sizes`, log2 of bytes."""
PAGE_CEILING = 33
"""`tlb_range_flush_page_ceiling`: with more pages the whole LPID is flushed."""

RIC_FLUSH_TLB, RIC_FLUSH_ALL = 0, 2


def rpt_invalidate(
    kvm: Kvm, lpid: int, target: int, kind: int, pg_sizes: int, start: int, end: int
) -> Steps[int]:
    """`kvmppc_h_rpt_invalidate` with `do_h_rpt_invalidate_pat`.

    `kind` is a set of H_RPTI_TYPE_*; `start` and `end` are nested real addresses.
    The test for everything (0 to -1) comes before the test of the kind, so a
    request for PWC or PAT alone over everything empties the shadow tree.
    """
    if not kvm.radix:
        return H_UNSUPPORTED
    if end < start:
        return H_P5
    if not kind & TYPE_NESTED:
        return H_SUCCESS  # process-scoped: the TLB only, which the model has not
    if target != TARGET_CMMU:
        return H_P2
    if lpid & 0xFFFF_FFFF not in kvm.nested:
        return H_SUCCESS
    if kind & TYPE_NESTED_ALL == TYPE_NESTED_ALL:
        yield from tlbie_one_lpid(kvm, lpid, RIC_FLUSH_ALL)
        return H_SUCCESS
    if start == 0 and end == U64:
        yield from tlbie_one_lpid(kvm, lpid, RIC_FLUSH_TLB)
        return H_SUCCESS
    if kind & TYPE_TLB:
        return (yield from invalidate_range(kvm, lpid, pg_sizes, start, end))
    return H_SUCCESS


def invalidate_range(kvm: Kvm, lpid: int, pg_sizes: int, start: int, end: int) -> Steps[int]:
    """Invalidate a range page by page, for each page size (`do_tlb_invalidate_nested_tlb`).

    Without any known page size: H_P4. A range that ends less than a page below
    2^64 never ends, because the kernel's address wraps around.
    """
    ret = H_P4
    for bit, shift in PAGE_SIZES:
        if not pg_sizes & bit or shift not in kvm.facts.tlbie_shifts:
            continue
        if (end - start) >> shift > PAGE_CEILING:
            yield from tlbie_one_lpid(kvm, lpid, RIC_FLUSH_TLB)
            return H_SUCCESS
        address = start
        while True:
            yield from tlbie_tlb_addr(kvm, lpid, shift, address & ~0xFFF)
            address += 1 << shift
            if address > U64 and "0007" in kvm.facts.mended:
                break
            if address > U64:
                raise HostDamageError(
                    "0007",
                    f"H_RPT_INVALIDATE of {start:#x} to {end:#x} wraps around and loops for ever",
                )
            if address >= end:
                break
        ret = H_SUCCESS
    return ret
