"""Memslots come, go, move and change their flags (transition 21)."""

from nestscope.sim.constants import (
    EEXIST,
    EINVAL,
    ENOMEM,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_MAX_NR_PAGES,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
    KVM_USER_MEM_SLOTS,
    U64,
)
from nestscope.sim.kvm import Kvm, Memslot
from nestscope.sim.notifier import unmap_gfn_range
from nestscope.sim.steps import GracePeriod, Steps


class NoInvalidation:
    """Waits in `kvm_swap_active_memslots` until no notifier is between start and end."""

    __slots__ = ("kvm",)

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    def ready(self) -> bool:
        """Whether `mn_active_invalidate_count` is 0."""
        return self.kvm.mn_active_invalidate_count == 0


def slot_by_id(kvm: Kvm, slot: int) -> Memslot | None:
    """`id_to_memslot`."""
    return next((memslot for memslot in kvm.memslots if memslot.id == slot), None)


def set_memory_region(
    kvm: Kvm, slot: int, gpa: int, size: int, userspace_addr: int, flags: int
) -> Steps[int]:
    """KVM_SET_USER_MEMORY_REGION: return 0 or a negative errno.

    `__kvm_set_memory_region`; a size of 0 deletes. All sizes in bytes.
    """
    while kvm.slots_lock.held:
        yield kvm.slots_lock
    kvm.slots_lock.held = True
    yield "set the memory region"
    error = yield from locked_set_memory_region(kvm, slot, gpa, size, userspace_addr, flags)
    kvm.slots_lock.held = False
    return error


def locked_set_memory_region(
    kvm: Kvm, slot: int, gpa: int, size: int, userspace_addr: int, flags: int
) -> Steps[int]:
    """Decide which of the four changes it is; `slots_lock` is held."""
    shift = kvm.page_shift
    valid = KVM_MEM_LOG_DIRTY_PAGES | (KVM_MEM_READONLY if kvm.facts.readonly_memslots else 0)
    unaligned = (gpa | size | userspace_addr) & ((1 << shift) - 1)
    if flags & ~valid or unaligned or slot >= KVM_USER_MEM_SLOTS:
        return -EINVAL
    if gpa + size > U64 or size >> shift > KVM_MEM_MAX_NR_PAGES:
        return -EINVAL
    old = slot_by_id(kvm, slot)
    if not size:
        if old is None:
            return -EINVAL
        return (yield from delete_slot(kvm, old))
    base_gfn, npages = gpa >> shift, size >> shift
    if old is not None:
        fixed = (old.userspace_addr, old.npages, old.flags & KVM_MEM_READONLY)
        if fixed != (userspace_addr, npages, flags & KVM_MEM_READONLY):
            return -EINVAL
        if base_gfn == old.base_gfn:
            return (yield from change_flags(kvm, old, flags))
    if overlaps(kvm, slot, base_gfn, npages):
        return -EEXIST
    if kvm.strikes("memslot"):
        return -ENOMEM
    if old is not None:
        return (yield from move_slot(kvm, old, base_gfn, flags))
    new = Memslot(
        slot=slot,
        base_gfn=base_gfn,
        npages=npages,
        userspace_addr=userspace_addr,
        flags=flags,
        array=kvm.new_address(),
    )
    set_dirty_bitmap(new)
    yield from swap_active(kvm, None, new)
    return 0


def overlaps(kvm: Kvm, slot: int, base_gfn: int, npages: int) -> bool:
    """`kvm_check_memslot_overlap`."""
    return any(
        memslot.base_gfn < base_gfn + npages and base_gfn < memslot.base_gfn + memslot.npages
        for memslot in kvm.memslots
        if memslot.id != slot
    )


def set_dirty_bitmap(new: Memslot) -> None:
    """Give a slot that logs an empty bitmap, one that does not none (`kvm_prepare_memory_region`).

    A slot that logged before keeps its bitmap.
    """
    if not new.flags & KVM_MEM_LOG_DIRTY_PAGES:
        new.dirty = None
    elif new.dirty is None:
        new.dirty = set()


def swap_active(kvm: Kvm, old: Memslot | None, new: Memslot | None) -> Steps[None]:
    """Replace a slot in the active set and wait for all who may still use the old one.

    `kvm_swap_active_memslots`.
    """
    while kvm.mn_active_invalidate_count:
        yield NoInvalidation(kvm)
    slots = [memslot for memslot in kvm.memslots if memslot is not old]
    kvm.memslots = slots if new is None else [*slots, new]
    yield GracePeriod(kvm.srcu)


def invalidate_slot(kvm: Kvm, old: Memslot) -> Steps[Memslot]:
    """Mark a slot invalid and unmap it; return the invalid copy (`kvm_invalidate_memslot`)."""
    invalid = old.copy(base_gfn=old.base_gfn, flags=old.flags | KVM_MEMSLOT_INVALID)
    yield from swap_active(kvm, old, invalid)
    yield "flush the slot"
    flush_memslot(kvm, old)
    return invalid


def delete_slot(kvm: Kvm, old: Memslot) -> Steps[int]:
    """KVM_MR_DELETE: the rmap array is freed with whatever is in it (`kvm_free_memslot`)."""
    if kvm.strikes("memslot"):
        return -ENOMEM
    invalid = yield from invalidate_slot(kvm, old)
    yield from swap_active(kvm, invalid, None)
    yield "free the slot"
    old.freed = invalid.freed = True
    old.rmap.clear()
    return 0


def move_slot(kvm: Kvm, old: Memslot, base_gfn: int, flags: int) -> Steps[int]:
    """KVM_MR_MOVE: the array moves along; entries left in it belong to other gfns then."""
    invalid = yield from invalidate_slot(kvm, old)
    new = old.copy(base_gfn=base_gfn, flags=flags)
    set_dirty_bitmap(new)
    yield from swap_active(kvm, invalid, new)
    return 0


def change_flags(kvm: Kvm, old: Memslot, flags: int) -> Steps[int]:
    """KVM_MR_FLAGS_ONLY: toggling dirty logging unmaps the slot *after* the new one is visible.

    `kvmppc_core_commit_memory_region_hv`: so that huge leaves go when logging
    begins, and base-page leaves when it ends.
    """
    if flags == old.flags:
        return 0
    if kvm.strikes("memslot"):
        return -ENOMEM
    new = old.copy(base_gfn=old.base_gfn, flags=flags)
    set_dirty_bitmap(new)
    yield from swap_active(kvm, old, new)
    if kvm.radix and (flags ^ old.flags) & KVM_MEM_LOG_DIRTY_PAGES:
        yield "flush the slot"
        flush_memslot(kvm, old)
    return 0


def flush_memslot(kvm: Kvm, memslot: Memslot) -> None:
    """Unmap every host leaf of a slot, one section (`kvmppc_radix_flush_memslot`)."""
    unmap_gfn_range(kvm, memslot, memslot.base_gfn, memslot.npages)
    kvm.mmu_invalidate_seq += 1
