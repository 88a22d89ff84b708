"""H_TLB_INVALIDATE: the guest's partition-scoped tlbie, emulated (transitions 15 and 16)."""

from nestscope.sim.constants import (
    EFFECTIVE_BITS,
    H_PARAMETER,
    H_SUCCESS,
    PMD_SHIFT,
    U64,
)
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.nested import flush_nested, get_nested, lock_tlb, put_nested, unlock_tlb
from nestscope.sim.operations import Tlbie
from nestscope.sim.steps import Steps
from nestscope.sim.unmap import invalidate_shadow_pte

AP_SHIFT = {0: 12, 5: 16, 1: 21, 2: 30}
"""`ap_to_shift`: actual page size encodings of POWER9 to log2 of bytes."""


def encode(operation: Tlbie) -> tuple[int, int, int]:
    """Return the three arguments of H_TLB_INVALIDATE: instruction, RS, RB (`H_TLBIE_P1_ENC`)."""
    instruction = operation.ric << 18 | operation.prs << 17 | operation.r << 16
    rb = operation.epn << 12 | operation.is_ << 10 | operation.ap << 5
    return instruction, operation.lpid, rb & U64


def do_nested_tlbie(kvm: Kvm, instruction: int, rs: int, rb: int) -> Steps[int]:
    """`kvmhv_do_nested_tlbie` with `kvmhv_emulate_priv_tlbie`."""
    ric, prs, r = instruction >> 18 & 3, instruction >> 17 & 1, instruction >> 16 & 1
    lpid, is_ = rs & 0xFFFF_FFFF, rb >> 10 & 3
    if not r or prs or ric == 3 or is_ == 1 or (is_ == 0 and ric in (1, 2)):
        return H_PARAMETER
    if is_ == 0:
        shift = AP_SHIFT.get(rb >> 5 & 7)
        if shift is None or shift not in kvm.facts.tlbie_shifts:
            return H_PARAMETER
        yield from tlbie_tlb_addr(kvm, lpid, shift, rb >> 12 << 12)
    elif is_ == 2:
        yield from tlbie_one_lpid(kvm, lpid, ric)
    else:
        yield from tlbie_all_lpid(kvm, ric)
    return H_SUCCESS


def tlbie_tlb_addr(kvm: Kvm, lpid: int, shift: int, address: int) -> Steps[None]:
    """Clear the shadow leaves across one guest page, stepping by the size found.

    `kvmhv_emulate_tlbie_tlb_addr`, transition 15; each leaf is a section of its
    own. A guest page smaller than the host's shifts 1 by a negative count, which
    POWER makes 0 pages: still one step.
    """
    nested = yield from get_nested(kvm, lpid, create=False)
    if nested is None:
        return
    yield from lock_tlb(kvm, nested)
    address &= ~((1 << shift) - 1)
    npages = (1 << shift) >> kvm.page_shift
    while True:
        yield "invalidate a shadow leaf"
        step = empty_stretch(nested, address) or invalidate_shadow_pte(kvm, nested, address)
        npages -= 1 << (step - kvm.page_shift)
        address += 1 << step
        if npages <= 0:
            break
    unlock_tlb(kvm, nested)
    yield from put_nested(kvm, nested)


def empty_stretch(nested: NestedGuest, address: int) -> int:
    """Return log2 of an aligned stretch without any leaf at `address`, 0 if unknown.

    Only to be quick: the kernel goes on page by page over nothing.
    """
    shadow = nested.shadow
    masked = address & EFFECTIVE_BITS
    if address & ((1 << PMD_SHIFT) - 1) or shadow.pmd_leaves or shadow.pud_leaves:
        return 0
    return 0 if masked >> PMD_SHIFT in shadow.pte_tables else PMD_SHIFT


def tlbie_one_lpid(kvm: Kvm, lpid: int, ric: int) -> Steps[None]:
    """Invalidate everything of nested guest `lpid`, if there is one."""
    nested = yield from get_nested(kvm, lpid, create=False)
    if nested is not None:
        yield from tlbie_lpid(kvm, nested, ric)
        yield from put_nested(kvm, nested)


def tlbie_lpid(kvm: Kvm, nested: NestedGuest, ric: int) -> Steps[None]:
    """Invalidate everything of one nested guest (`kvmhv_emulate_tlbie_lpid`, transition 16).

    RIC=0 empties the shadow tree, RIC=1 does nothing (nothing is cached).
    """
    yield from lock_tlb(kvm, nested)
    if ric == 0:
        yield "empty the shadow tree"
        kvm.touch(nested, "kvmhv_emulate_tlbie_lpid")
        nested.shadow.clear()
    elif ric == 2:
        yield from flush_nested(kvm, nested)
    unlock_tlb(kvm, nested)


def tlbie_all_lpid(kvm: Kvm, ric: int) -> Steps[None]:
    """Invalidate all nested guests, by rising l1_lpid (`kvmhv_emulate_tlbie_all_lpid`).

    `mmu_lock` is dropped for each one and no reference is held: RIC=2 may
    release it under its own lock, and so may another vCPU.
    """
    last = -1
    while True:
        yield "find the next nested guest"
        following = [l1_lpid for l1_lpid in kvm.nested if l1_lpid > last]
        if not following:
            return
        last = min(following)
        yield from tlbie_lpid(kvm, kvm.nested[last], ric)
