"""A storage interrupt of a nested guest: `__kvmhv_nested_page_fault`, check by check."""

from typing import NamedTuple

from nestscope.decoders.words.pte import PTE_C, PTE_R
from nestscope.sim import rmap
from nestscope.sim.constants import (
    DSISR_BAD_COPYPASTE,
    DSISR_BAD_FAULT_64S,
    DSISR_BADACCESS,
    DSISR_ISSTORE,
    DSISR_NOEXEC_OR_G,
    DSISR_NOHPTE,
    DSISR_PROTFAULT,
    DSISR_PRTABLE_FAULT,
    DSISR_SET_RC,
    DSISR_UNSUPP_MMU,
    EAA_EXECUTE,
    EAA_READ,
    EAA_RWX,
    EAA_WRITE,
    EAGAIN,
    EFAULT,
    EFFECTIVE_BITS,
    EINVAL,
    ENOENT,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
    RESUME_GUEST,
    RESUME_HOST,
)
from nestscope.sim.create import create_pte
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.instantiate import instantiate_page, set_rc
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.nested import update_ptbl_cache
from nestscope.sim.unmap import invalidate_shadow_pte
from nestscope.sim.walker import GuestPte, walk_guest_tree

REMOVES_SHADOW = DSISR_PROTFAULT | DSISR_BADACCESS | DSISR_NOEXEC_OR_G | DSISR_BAD_COPYPASTE
"""With one of these the hardware did find a leaf, so the shadow leaf is out of date."""

WALK_FAULT = {-EINVAL: DSISR_UNSUPP_MMU, -ENOENT: DSISR_NOHPTE, -EFAULT: DSISR_PRTABLE_FAULT}


class Fault(NamedTuple):
    """A storage interrupt: `kind` of access, nested address, DSISR as the hardware gave it."""

    kind: str
    n_gpa: int
    dsisr: int


class Outcome(NamedTuple):
    """What became of a fault.

    `resume`: RESUME_GUEST, RESUME_HOST or a negative errno, as the kernel returns
    it; `dsisr` and `asdr` are what the guest hypervisor sees if it is not resumed.
    `forwarded`: the host replaced the flags (`forward_to_l1`).
    """

    resume: int
    dsisr: int = 0
    asdr: int = 0
    forwarded: bool = False


RETRY = Outcome(RESUME_GUEST)


def nested_page_fault(kvm: Kvm, nested: NestedGuest, fault: Fault) -> Outcome:
    """Find out why, and insert a shadow leaf, or hand the fault to the guest.

    `__kvmhv_nested_page_fault`, transitions 1 to 9, 13 and 14.
    """
    unchanged = Outcome(RESUME_HOST, fault.dsisr, fault.n_gpa)
    if not nested.l1_gr_to_hr:
        update_ptbl_cache(kvm, nested)
        if not nested.l1_gr_to_hr:
            return unchanged
    gpte = walk_guest_tree(kvm, fault.n_gpa & EFFECTIVE_BITS, nested.l1_gr_to_hr)
    refused = translation_refused(gpte, fault)
    if refused is not None:
        if fault.dsisr & REMOVES_SHADOW:
            invalidate_shadow_pte(kvm, nested, fault.n_gpa)
            return RETRY
        return refused
    dsisr = fault.dsisr
    if dsisr & DSISR_SET_RC:
        done = handle_nested_set_rc(kvm, nested, fault, gpte)
        if done == RESUME_HOST:
            return unchanged
        if done:
            invalidate_shadow_pte(kvm, nested, fault.n_gpa)
            return RETRY
        dsisr &= ~DSISR_SET_RC
        if not dsisr & (DSISR_BAD_FAULT_64S | DSISR_NOHPTE | DSISR_PROTFAULT):
            return RETRY
    if gpte.page_shift < kvm.page_shift:
        return unchanged._replace(resume=-EINVAL)
    memslot = kvm.gfn_to_memslot(gpte.raddr >> kvm.page_shift)
    if memslot is None or memslot.flags & (KVM_MEMSLOT_INVALID | KVM_MEM_READONLY):
        raise UnmodelledError(
            f"nested guest {nested.l1_lpid} reaches {gpte.raddr:#x}, outside writable memory"
        )
    resume = insert_shadow_leaf(kvm, nested, fault, gpte, memslot)
    return RETRY if resume == -EAGAIN else unchanged._replace(resume=resume)


def translation_refused(gpte: GuestPte, fault: Fault) -> Outcome | None:
    """Say how the guest's own tree forbids the access, None if it allows it.

    `kvmhv_translate_addr_nested`, transition 1. A store keeps DSISR_ISSTORE.
    """
    asdr = fault.n_gpa
    cause = 0
    if gpte.error:
        cause = WALK_FAULT[gpte.error]
        if gpte.error == -EFAULT:
            asdr = gpte.raddr
    elif fault.dsisr & DSISR_ISSTORE:
        cause = 0 if gpte.pte & EAA_WRITE else DSISR_PROTFAULT
    elif fault.kind == "fetch":
        cause = 0 if gpte.pte & EAA_EXECUTE else DSISR_NOEXEC_OR_G
    elif not gpte.pte & (EAA_READ | EAA_WRITE):
        cause = DSISR_PROTFAULT
    if not cause:
        return None
    return Outcome(RESUME_HOST, fault.dsisr & DSISR_ISSTORE | cause, asdr, forwarded=True)


def handle_nested_set_rc(kvm: Kvm, nested: NestedGuest, fault: Fault, gpte: GuestPte) -> int:
    """Set R and C in the host leaf, then in the shadow leaf (transition 2).

    `kvmhv_handle_nested_set_rc`: RESUME_HOST if the guest must set its own bits
    first, -EINVAL if a leaf is not there or not writable, else 0.
    """
    writing = bool(fault.dsisr & DSISR_ISSTORE)
    needed = PTE_R | (PTE_C if writing else 0)
    if needed & ~gpte.pte:
        return RESUME_HOST
    if not set_rc(kvm, gpte.raddr, writing=writing):
        return -EINVAL
    return 0 if set_shadow_rc(kvm, nested, fault.n_gpa, needed, writing=writing) else -EINVAL


def set_shadow_rc(kvm: Kvm, nested: NestedGuest, n_gpa: int, needed: int, *, writing: bool) -> bool:
    """`kvmppc_hv_handle_set_rc` for a nested guest; looks it up in the idr again."""
    found = kvm.nested.get(nested.l1_lpid)
    if found is None:
        return False
    pte, shift = found.shadow.find(n_gpa)
    if not pte or (writing and not pte & EAA_WRITE):
        return False
    found.shadow.change(n_gpa, shift, pte | needed)
    return True


def insert_shadow_leaf(
    kvm: Kvm, nested: NestedGuest, fault: Fault, gpte: GuestPte, memslot: Memslot
) -> int:
    """Combine host leaf and guest leaf into a shadow leaf; return 0 or a negative errno.

    Steps 2 to 4 of `__kvmhv_nested_page_fault`. The sequence number is read
    before the host page is looked for, so that an invalidation in between is seen.
    """
    writing = bool(fault.dsisr & DSISR_ISSTORE)
    mmu_seq = kvm.mmu_invalidate_seq
    gpa = gpte.raddr
    pte, shift = kvm.pgtable.find(gpa)
    if not pte or (writing and not pte & EAA_WRITE):
        error, pte = instantiate_page(kvm, gpa, memslot, writing=writing)
        if error:
            return error
        shift = 0
    if shift:
        raise UnmodelledError(f"the host maps {gpa:#x} with a page of 2^{shift} bytes")
    if kvm.strikes("rmap_node"):
        return -EAGAIN
    page_mask = ~((1 << kvm.page_shift) - 1)
    n_gpa = fault.n_gpa & EFFECTIVE_BITS & page_mask
    index = (gpa >> kvm.page_shift) - memslot.base_gfn
    chain = (memslot.rmap, index, rmap.pack(nested.l1_lpid, n_gpa))
    pte = shadow_pte(pte, gpte.pte, writing=writing)
    return create_pte(kvm, nested.shadow, pte, n_gpa, mmu_seq, chain=chain)


def shadow_pte(host: int, guest: int, *, writing: bool) -> int:
    """Return the host leaf without what the guest leaf lacks (transition 14).

    Permissions are the guest's own bits, bit by bit: a guest leaf with only
    EAA_WRITE gives no EAA_READ. C is kept only while a store is being served.
    """
    missing = ~guest & (EAA_RWX | PTE_R)
    if not (guest & PTE_C and writing):
        missing |= PTE_C
    return host & ~missing
