"""The VM's own page faults: from a host page of the VMM to a host leaf."""

from typing import NamedTuple

from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_LEAF,
    PTE_R,
)
from nestscope.sim.constants import (
    DSISR_BAD_FAULT_64S,
    DSISR_ISSTORE,
    DSISR_NOHPTE,
    DSISR_PROTFAULT,
    DSISR_SET_RC,
    EAGAIN,
    EFAULT,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
)
from nestscope.sim.create import create_pte
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.hardware import access_fault
from nestscope.sim.hostmm import HUGE_SHIFTS
from nestscope.sim.kvm import Kvm, Memslot
from nestscope.sim.steps import Steps

READ_LEAF = PTE_LEAF | PTE_R | PTE_EAA_READ | PTE_EAA_EXECUTE
WRITE_LEAF = READ_LEAF | PTE_C | PTE_EAA_WRITE
LOOP_LIMIT = 100
"""More faults than any one access can need."""


class Instantiated(NamedTuple):
    """What became of a host leaf: a negative errno or 0, its word, log2 of its size.

    `pte` 0 with `error` 0: the host page went away meanwhile. The kernel then
    reports success and tells its caller neither word nor size.
    """

    error: int
    pte: int = 0
    shift: int = 0


def instantiate_page(
    kvm: Kvm, gpa: int, memslot: Memslot, *, writing: bool, read_only: bool
) -> Steps[Instantiated]:
    """Make a host leaf for `gpa`.

    `kvmppc_book3s_instantiate_page`, transition 3. Pages that the VMM can write
    are mapped for writing and marked changed at once, even for a read
    (`upgrade_write`). An absent page is read through the shared zero page.
    """
    mmu_seq = kvm.mmu_invalidate_seq
    memory = kvm.memory
    gfn = gpa >> kvm.page_shift
    hva = kvm.hva_of(memslot, gfn)
    page = hva >> kvm.page_shift
    writable = not read_only and memory.private_frame(page) != 0
    if not writable:
        yield "get the host page"
        if writing:
            if not (yield from memory.write_fault(page)):
                return Instantiated(-EFAULT)
        else:
            memory.read_fault(page)
            writable = not read_only and memory.private_frame(page) != 0

    yield "find the host page"
    if kvm.strikes("retry_before"):
        kvm.mmu_invalidate_seq += 1
    frame, host_shift = (0, 0) if kvm.invalidated_since(mmu_seq) else memory.find(page)
    if not frame:
        return Instantiated(0)
    shift = leaf_shift(kvm, memslot, gpa, hva, host_shift)
    frame &= -1 << shift - kvm.page_shift  # of a huge leaf: the first one
    wants_write = writing or writable
    is_writable = wants_write and memory.private_frame(page) != 0
    pte = frame << kvm.page_shift | (WRITE_LEAF if is_writable else READ_LEAF)
    error = yield from create_pte(kvm, kvm.pgtable, pte, gpa, shift, mmu_seq)
    return Instantiated(error, pte, shift)


def leaf_shift(kvm: Kvm, memslot: Memslot, gpa: int, hva: int, host_shift: int) -> int:
    """Return log2 of the size that a host leaf gets over a host page of `host_shift`.

    As large as the host page if guest and host virtual address agree below that
    size and dirty pages are not logged, else a base page. Whether the leaf lies in the
    slot is not asked (finding 0003; `mended`: it is).
    """
    if host_shift not in HUGE_SHIFTS or memslot.flags & KVM_MEM_LOG_DIRTY_PAGES:
        return kvm.page_shift
    size = 1 << host_shift
    if (gpa ^ hva) & (size - (1 << kvm.page_shift)):
        return kvm.page_shift
    first, pages = (gpa & -size) >> kvm.page_shift, size >> kvm.page_shift
    outside = first < memslot.base_gfn or first + pages > memslot.base_gfn + memslot.npages
    if outside and "0003" in kvm.facts.mended:
        return kvm.page_shift
    return host_shift


def radix_page_fault(kvm: Kvm, gpa: int, dsisr: int) -> Steps[None]:
    """Handle a fault of the guest itself (`kvmppc_book3s_radix_page_fault`)."""
    writing = bool(dsisr & DSISR_ISSTORE)
    memslot = kvm.gfn_to_memslot(gpa >> kvm.page_shift)
    if memslot is None or memslot.flags & (KVM_MEMSLOT_INVALID | KVM_MEM_READONLY):
        raise UnmodelledError(f"the guest accesses {gpa:#x}, outside its writable memory")
    if dsisr & DSISR_SET_RC:
        yield "set R and C"
        if set_rc(kvm, gpa, writing=writing):
            dsisr &= ~DSISR_SET_RC
        if not dsisr & (DSISR_BAD_FAULT_64S | DSISR_NOHPTE | DSISR_PROTFAULT | DSISR_SET_RC):
            return
    done = yield from instantiate_page(kvm, gpa, memslot, writing=writing, read_only=False)
    if done.error not in (0, -EAGAIN):
        raise UnmodelledError(f"KVM_RUN fails with {done.error} in the guest's own fault")


def set_rc(kvm: Kvm, gpa: int, *, writing: bool) -> bool:
    """Set R, and C for a store, in the host leaf (`kvmppc_hv_handle_set_rc`, not nested)."""
    pte, shift = kvm.pgtable.find(gpa)
    if not pte or (writing and not pte & PTE_EAA_WRITE):
        return False
    kvm.pgtable.change(gpa, shift, pte | PTE_R | (PTE_C if writing else 0))
    return True


def guest_access(kvm: Kvm, gpa: int, kind: str) -> Steps[None]:
    """Let the guest itself touch its memory: fault until the access goes through."""
    pgtable = kvm.pgtable
    rc_by_hardware = kvm.facts.rc_by_hardware
    for _ in range(LOOP_LIMIT):
        dsisr = access_fault(pgtable, gpa, kind, rc_by_hardware=rc_by_hardware)
        if not dsisr:
            return
        yield "the guest faults"
        yield from radix_page_fault(kvm, gpa, dsisr)
    raise UnmodelledError(f"the guest faults for ever at {gpa:#x}")
