"""The VM's own page faults: from a host page of the VMM to a host leaf."""

from nestscope.decoders.words.pte import PTE_C, PTE_LEAF, PTE_R
from nestscope.sim.constants import (
    DSISR_BAD_FAULT_64S,
    DSISR_ISSTORE,
    DSISR_NOHPTE,
    DSISR_PROTFAULT,
    DSISR_SET_RC,
    EAA_EXECUTE,
    EAA_READ,
    EAA_WRITE,
    EAGAIN,
    ENOMEM,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
)
from nestscope.sim.create import create_pte
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.hardware import access_fault
from nestscope.sim.hostmm import ZERO_FRAME
from nestscope.sim.kvm import Kvm, Memslot

READ_LEAF = PTE_LEAF | PTE_R | EAA_READ | EAA_EXECUTE
WRITE_LEAF = READ_LEAF | PTE_C | EAA_WRITE
LOOP_LIMIT = 100
"""More faults than any one access can need."""


def instantiate_page(kvm: Kvm, gpa: int, memslot: Memslot, *, writing: bool) -> tuple[int, int]:
    """Make a host leaf for `gpa`; return `(error, pte)`, the error 0 or a negative errno.

    `kvmppc_book3s_instantiate_page`, transition 3. Pages that the VMM can write
    are mapped for writing and marked changed at once, even for a read
    (`upgrade_write`). An absent page is read through the shared zero page.
    """
    mmu_seq = kvm.mmu_invalidate_seq
    memory = kvm.memory
    page = kvm.hva_of(memslot, gpa >> kvm.page_shift) >> kvm.page_shift
    frame = memory.write_fault(page) if writing else memory.read_fault(page)
    if kvm.mmu_invalidate_seq != mmu_seq:
        # Copying the zero page called our own notifier: find_kvm_host_pte gives nothing.
        return -EAGAIN, 0
    pte = frame << kvm.page_shift | (READ_LEAF if frame == ZERO_FRAME else WRITE_LEAF)
    return create_pte(kvm, kvm.pgtable, pte, gpa, mmu_seq), pte


def radix_page_fault(kvm: Kvm, gpa: int, dsisr: int) -> None:
    """Handle a fault of the guest itself (`kvmppc_book3s_radix_page_fault`)."""
    writing = bool(dsisr & DSISR_ISSTORE)
    memslot = kvm.gfn_to_memslot(gpa >> kvm.page_shift)
    if memslot is None or memslot.flags & (KVM_MEMSLOT_INVALID | KVM_MEM_READONLY):
        raise UnmodelledError(f"the guest accesses {gpa:#x}, outside its writable memory")
    if dsisr & DSISR_SET_RC:
        if set_rc(kvm, gpa, writing=writing):
            dsisr &= ~DSISR_SET_RC
        if not dsisr & (DSISR_BAD_FAULT_64S | DSISR_NOHPTE | DSISR_PROTFAULT | DSISR_SET_RC):
            return
    error, _ = instantiate_page(kvm, gpa, memslot, writing=writing)
    if error == -ENOMEM:
        raise UnmodelledError("KVM_RUN fails with ENOMEM in the guest's own fault")


def set_rc(kvm: Kvm, gpa: int, *, writing: bool) -> bool:
    """Set R, and C for a store, in the host leaf (`kvmppc_hv_handle_set_rc`, not nested)."""
    pte, shift = kvm.pgtable.find(gpa)
    if not pte or (writing and not pte & EAA_WRITE):
        return False
    kvm.pgtable.change(gpa, shift, pte | PTE_R | (PTE_C if writing else 0))
    return True


def guest_access(kvm: Kvm, gpa: int, kind: str) -> None:
    """Let the guest itself touch its memory: fault until the access goes through."""
    pgtable = kvm.pgtable
    rc_by_hardware = kvm.facts.rc_by_hardware
    for _ in range(LOOP_LIMIT):
        dsisr = access_fault(pgtable, gpa, kind, rc_by_hardware=rc_by_hardware)
        if not dsisr:
            return
        radix_page_fault(kvm, gpa, dsisr)
    raise UnmodelledError(f"the guest faults for ever at {gpa:#x}")
