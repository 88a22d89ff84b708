"""The MMU notifier: the VMM's address space changes under the guest."""

from nestscope.sim.kvm import Kvm
from nestscope.sim.unmap import unmap_host_leaf


def register(kvm: Kvm) -> None:
    """Connect the VM to the address space of its VMM (`mmu_notifier_register`)."""

    def invalidate(start: int, end: int) -> None:
        invalidate_range(kvm, start, end)

    kvm.memory.invalidate = invalidate


def invalidate_range(kvm: Kvm, start: int, end: int) -> None:
    """Unmap every guest page behind host virtual addresses `start` to `end`.

    `kvm_mmu_notifier_invalidate_range_start` and `_end`, transition 18. Only the
    end counts the sequence number up.
    """
    page_shift = kvm.page_shift
    for memslot in kvm.memslots:
        slot_end = memslot.userspace_addr + (memslot.npages << page_shift)
        hva_start, hva_end = max(start, memslot.userspace_addr), min(end, slot_end)
        if hva_start < hva_end:
            first = memslot.base_gfn + (hva_start - memslot.userspace_addr >> page_shift)
            pages = hva_end - hva_start + (1 << page_shift) - 1 >> page_shift
            for gfn in range(first, first + pages):
                gpa = gfn << page_shift
                pte, shift = kvm.pgtable.find(gpa)
                if pte:  # without a host leaf the chain is not looked at
                    unmap_host_leaf(kvm, memslot, gpa, shift)
    kvm.mmu_invalidate_seq += 1
