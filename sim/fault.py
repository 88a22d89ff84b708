"""A storage interrupt of a nested guest: `__kvmhv_nested_page_fault`, check by check."""

from typing import NamedTuple

from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
)
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
    EAA_RWX,
    EAGAIN,
    EFAULT,
    EFFECTIVE_BITS,
    EINVAL,
    ENOENT,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
    PMD_SHIFT,
    RESUME_GUEST,
    RESUME_HOST,
)
from nestscope.sim.create import create_pte
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.instantiate import instantiate_page, set_rc
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.nested import lock_tlb, unlock_tlb, update_ptbl_cache
from nestscope.sim.steps import Steps
from nestscope.sim.unmap import invalidate_shadow_pte
from nestscope.sim.walker import GuestPte, walk_guest_tree

NESTED_ADDRESS = (1 << 60) - 1
"""What the kernel keeps of a nested real address (`fault_gpa & ~0xF000...`)."""

REMOVES_SHADOW = DSISR_PROTFAULT | DSISR_BADACCESS | DSISR_NOEXEC_OR_G | DSISR_BAD_COPYPASTE
"""With one of these the hardware did find a leaf, so the shadow leaf is out of date."""

WALK_FAULT = {-EINVAL: DSISR_UNSUPP_MMU, -ENOENT: DSISR_NOHPTE, -EFAULT: DSISR_PRTABLE_FAULT}


class Fault(NamedTuple):
    """A storage interrupt: `kind` of access, nested address, DSISR as the hardware gave it.

    `effective` is the address that the nested guest used (HDAR), None if it is `n_gpa`.
    """

    kind: str
    n_gpa: int
    dsisr: int
    effective: int | None = None

    @property
    def ea(self) -> int:
        """The effective address."""
        return self.n_gpa if self.effective is None else self.effective


class Outcome(NamedTuple):
    """What became of a fault.

    `resume`: RESUME_GUEST, RESUME_HOST or a negative errno, as the kernel returns
    it; `dsisr` and `asdr` are what the guest hypervisor sees if it is not resumed.
    `forwarded`: the host replaced the flags (`forward_to_l1`). `queued`: the nested
    guest gets a data storage interrupt of its own.
    """

    resume: int
    dsisr: int = 0
    asdr: int = 0
    forwarded: bool = False
    queued: bool = False


RETRY = Outcome(RESUME_GUEST)


def nested_page_fault(kvm: Kvm, nested: NestedGuest, fault: Fault) -> Steps[Outcome]:
    """Find out why, and insert a shadow leaf, or hand the fault to the guest.

    `kvmhv_nested_page_fault` and `kvmppc_handle_nested_exit` around it: SRCU and
    `tlb_lock` are held for the whole of it.
    """
    reader = kvm.srcu.read_lock()
    yield from lock_tlb(kvm, nested)
    outcome = yield from locked_page_fault(kvm, nested, fault)
    unlock_tlb(kvm, nested)
    kvm.srcu.read_unlock(reader)
    return outcome


def locked_page_fault(kvm: Kvm, nested: NestedGuest, fault: Fault) -> Steps[Outcome]:
    """`__kvmhv_nested_page_fault`, transitions 1 to 14."""
    unchanged = Outcome(RESUME_HOST, fault.dsisr, fault.n_gpa)
    if not nested.l1_gr_to_hr:
        update_ptbl_cache(kvm, nested)
        if not nested.l1_gr_to_hr:
            return unchanged
    yield "walk the guest's tree"
    gpte = walk_guest_tree(kvm, fault.n_gpa & EFFECTIVE_BITS, nested.l1_gr_to_hr)
    refused = translation_refused(gpte, fault)
    if refused is not None:
        if fault.dsisr & REMOVES_SHADOW:
            yield "invalidate the shadow leaf"
            invalidate_shadow_pte(kvm, nested, fault.n_gpa)
            return RETRY
        return refused
    dsisr = fault.dsisr
    if dsisr & DSISR_SET_RC:
        done = yield from handle_nested_set_rc(kvm, nested, fault, gpte)
        if done == RESUME_HOST:
            return unchanged
        if done:
            yield "invalidate the shadow leaf"
            invalidate_shadow_pte(kvm, nested, fault.n_gpa)
            return RETRY
        dsisr &= ~DSISR_SET_RC
        if not dsisr & (DSISR_BAD_FAULT_64S | DSISR_NOHPTE | DSISR_PROTFAULT):
            return RETRY
    if gpte.page_shift < kvm.page_shift:
        return unchanged._replace(resume=-EINVAL)
    memslot = kvm.gfn_to_memslot(gpte.raddr >> kvm.page_shift)
    if memslot is None or memslot.flags & KVM_MEMSLOT_INVALID:
        return outside_memory(kvm, nested, fault)
    read_only = bool(memslot.flags & KVM_MEM_READONLY)
    if read_only and fault.dsisr & DSISR_ISSTORE:
        return unchanged._replace(
            resume=RESUME_GUEST, dsisr=DSISR_ISSTORE | DSISR_PROTFAULT, queued=True
        )
    resume = yield from insert_shadow_leaf(kvm, nested, fault, gpte, memslot)
    return RETRY if resume == -EAGAIN else unchanged._replace(resume=resume)


def outside_memory(kvm: Kvm, nested: NestedGuest, fault: Fault) -> Outcome:
    """Treat an address without memory as emulated MMIO (`kvmppc_hv_emulate_mmio`).

    The host needs the instruction and loads it by its *effective* address, through
    quadrants and so through the nested guest's process table, or by
    H_COPY_TOFROM_GUEST (`kvmhv_load_from_eaddr`). Of a nested guest in real mode without a
    process table it cannot: the nested guest tries again, until its time is up. Nor can it
    where the fetch itself is what faulted.
    """
    if fault.dsisr & (DSISR_PRTABLE_FAULT | DSISR_BADACCESS):
        return Outcome(RESUME_GUEST, fault.dsisr, fault.n_gpa, queued=True)
    if fault.kind == "fetch" or not kvm.facts.reads_instructions or not nested.process_table:
        return RETRY
    raise UnmodelledError("the host loads an instruction through a nested process table")


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
        cause = 0 if gpte.pte & PTE_EAA_WRITE else DSISR_PROTFAULT
    elif fault.kind == "fetch":
        cause = 0 if gpte.pte & PTE_EAA_EXECUTE else DSISR_NOEXEC_OR_G
    elif not gpte.pte & (PTE_EAA_READ | PTE_EAA_WRITE):
        cause = DSISR_PROTFAULT
    if not cause:
        return None
    return Outcome(RESUME_HOST, fault.dsisr & DSISR_ISSTORE | cause, asdr, forwarded=True)


def handle_nested_set_rc(kvm: Kvm, nested: NestedGuest, fault: Fault, gpte: GuestPte) -> Steps[int]:
    """Set R and C in the host leaf, then in the shadow leaf, in one section (transition 2).

    `kvmhv_handle_nested_set_rc`: RESUME_HOST if the guest must set its own bits
    first, -EINVAL if a leaf is not there or not writable, else 0.
    """
    writing = bool(fault.dsisr & DSISR_ISSTORE)
    needed = PTE_R | (PTE_C if writing else 0)
    if needed & ~gpte.pte:
        return RESUME_HOST
    yield "set R and C"
    if not set_rc(kvm, gpte.raddr, writing=writing):
        return -EINVAL
    return 0 if set_shadow_rc(kvm, nested, fault.n_gpa, needed, writing=writing) else -EINVAL


def set_shadow_rc(kvm: Kvm, nested: NestedGuest, n_gpa: int, needed: int, *, writing: bool) -> bool:
    """`kvmppc_hv_handle_set_rc` for a nested guest; looks it up in the idr again."""
    found = kvm.nested.get(nested.l1_lpid)
    if found is None:
        return False
    pte, shift = found.shadow.find(n_gpa)
    if not pte or (writing and not pte & PTE_EAA_WRITE):
        return False
    found.shadow.change(n_gpa, shift, pte | needed)
    return True


def insert_shadow_leaf(
    kvm: Kvm, nested: NestedGuest, fault: Fault, gpte: GuestPte, memslot: Memslot
) -> Steps[int]:
    """Combine host leaf and guest leaf into a shadow leaf; return 0 or a negative errno.

    Steps 2 to 4 of `__kvmhv_nested_page_fault`. The sequence number is read
    before the host page is looked for, so that an invalidation in between is seen.
    """
    writing = bool(fault.dsisr & DSISR_ISSTORE)
    mmu_seq = kvm.mmu_invalidate_seq
    gpa = gpte.raddr
    yield "find the host leaf"
    pte, shift = kvm.pgtable.find(gpa)
    vanished = False
    if not pte or (writing and not pte & PTE_EAA_WRITE):
        read_only = bool(memslot.flags & KVM_MEM_READONLY)
        done = yield from instantiate_page(kvm, gpa, memslot, writing=writing, read_only=read_only)
        if done.error:
            return done.error
        vanished = not done.pte
        pte, shift = done.pte, done.shift
    shift = shift or kvm.page_shift
    index = (gpa >> shift << shift - kvm.page_shift) - memslot.base_gfn
    pte = shadow_pte(pte, gpte.pte, writing=writing)
    if shift > gpte.page_shift:
        pte, shift = part_of_host_page(kvm, pte, shift, gpte)
    if kvm.strikes("rmap_node"):
        return -EAGAIN
    n_gpa = fault.n_gpa & NESTED_ADDRESS & -1 << shift
    entry = (memslot, index, rmap.pack(nested.l1_lpid, n_gpa))
    kvm.touch(nested, "kvmppc_create_pte")
    error = yield from create_pte(kvm, nested.shadow, pte, n_gpa, shift, mmu_seq, entry)
    if vanished and not error:
        # The kernel is here with a word and a level that nobody set.
        raise UnmodelledError(f"a host page vanished at {gpa:#x} and no invalidation was seen")
    return error


def part_of_host_page(kvm: Kvm, pte: int, shift: int, gpte: GuestPte) -> tuple[int, int]:
    """Return word and size of a shadow leaf where the host page is the larger one.

    A base page, or 2 MiB if the guest's page is *larger* than that; equal is not
    enough (transition 10).
    """
    actual = PMD_SHIFT if gpte.page_shift > PMD_SHIFT else kvm.page_shift
    return pte | gpte.raddr & ((1 << shift) - (1 << actual)), actual


def shadow_pte(host: int, guest: int, *, writing: bool) -> int:
    """Return the host leaf without what the guest leaf lacks (transition 14).

    Permissions are the guest's own bits, bit by bit: a guest leaf with only
    PTE_EAA_WRITE gives no PTE_EAA_READ. C is kept only while a store is being served.
    """
    missing = ~guest & (EAA_RWX | PTE_R)
    if not (guest & PTE_C and writing):
        missing |= PTE_C
    return host & ~missing
