"""The dirty log: which pages of a slot were written (transition 20)."""

from nestscope.decoders.words.pte import PTE_C, PTE_RPN
from nestscope.sim.constants import EINVAL, ENOENT, ENOTTY, KVM_USER_MEM_SLOTS
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.kvm import Kvm, Memslot
from nestscope.sim.memslots import slot_by_id
from nestscope.sim.steps import Steps
from nestscope.sim.unmap import update_nest_rmap_rc_list


def get_dirty_log(kvm: Kvm, slot: int) -> Steps[tuple[int, int]]:
    """KVM_GET_DIRTY_LOG: return `(error, bitmap)` and clear the log.

    `kvm_vm_ioctl_get_dirty_log_hv`: what the host leaves say, and what was noted
    when leaves went away. Bit i of the bitmap is page i of the slot.
    """
    while kvm.slots_lock.held:
        yield kvm.slots_lock
    kvm.slots_lock.held = True
    memslot = slot_by_id(kvm, slot)
    error, pages = -EINVAL if slot >= KVM_USER_MEM_SLOTS else -ENOENT, 0
    if memslot is not None and memslot.dirty is not None:
        error = 0
        for gpa in dirty_gpas(kvm, memslot):
            yield "clear C"
            if test_clear_dirty(kvm, memslot, gpa):
                pages |= 1 << (gpa >> kvm.page_shift) - memslot.base_gfn
        yield "take the noted pages"
        for page in memslot.dirty:
            pages |= 1 << page
        memslot.dirty.clear()
    kvm.slots_lock.held = False
    return error, pages


def dirty_gpas(kvm: Kvm, memslot: Memslot) -> list[int]:
    """Return the pages whose host leaf has C set, as the walk without `mmu_lock` finds them."""
    end = memslot.base_gfn + memslot.npages
    shift = kvm.page_shift
    tree = kvm.pgtable
    for size, leaves in tree.huge_leaves():
        for key, pte in leaves.items():
            if memslot.base_gfn <= key << size - shift < end and pte & PTE_C:
                raise UnmodelledError(
                    f"a huge leaf at {key << size:#x} in a slot that logs: VM_BUG_ON(shift)"
                )
    gfns = [gfn for gfn, pte in tree.ptes.items() if pte & PTE_C and memslot.base_gfn <= gfn < end]
    return [gfn << shift for gfn in sorted(gfns)]


def test_clear_dirty(kvm: Kvm, memslot: Memslot, gpa: int) -> bool:
    """Clear C in a host leaf and in the shadow leaves made from it; say whether it was set.

    `kvm_radix_test_clear_dirty`, one section under `mmu_lock`.
    """
    pte, shift = kvm.pgtable.find(gpa)
    if not pte & PTE_C:
        return False
    kvm.pgtable.change(gpa, shift, pte & ~PTE_C)
    index = (gpa >> kvm.page_shift) - memslot.base_gfn
    update_nest_rmap_rc_list(kvm, memslot, index, PTE_C, pte & PTE_RPN, shift)
    return True


def clear_dirty_log() -> int:
    """KVM_CLEAR_DIRTY_LOG: POWER lacks KVM_GENERIC_DIRTYLOG_READ_PROTECT, so always -ENOTTY."""
    return -ENOTTY
