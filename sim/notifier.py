"""The MMU notifier: the VMM's address space changes under the guest."""

from collections.abc import Iterator

from nestscope.decoders.words.pte import PTE_R, PTE_RPN
from nestscope.sim.kvm import Kvm, Memslot
from nestscope.sim.steps import Steps
from nestscope.sim.tree import RadixTree
from nestscope.sim.unmap import unmap_pte, update_nest_rmap_rc_list


class Notifier:
    """`kvm_mmu_notifier_ops` of one VM."""

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    def start(self, start: int, end: int) -> Steps[None]:
        """Unmap every guest page of the range `start` to `end` (hva, bytes).

        `kvm_mmu_notifier_invalidate_range_start`, transition 18. From here to
        `end` no path may set a leaf.
        """
        kvm = self.kvm
        kvm.mn_active_invalidate_count += 1
        yield "unmap the range"
        found = False
        for memslot, first, count in slots_of_range(kvm, start, end):
            if not found:
                found = True
                kvm.mmu_invalidate_in_progress += 1
            unmap_gfn_range(kvm, memslot, first, count)

    def end(self, start: int, end: int) -> Steps[None]:
        """Let leaves be set again: `kvm_mmu_notifier_invalidate_range_end`."""
        kvm = self.kvm
        yield "end the invalidation"
        if next(slots_of_range(kvm, start, end), None) is not None:
            kvm.mmu_invalidate_seq += 1
            kvm.mmu_invalidate_in_progress -= 1
        kvm.mn_active_invalidate_count -= 1


def register(kvm: Kvm) -> None:
    """Connect the VM to the address space of its VMM (`mmu_notifier_register`)."""
    kvm.memory.notifier = Notifier(kvm)


def slots_of_range(kvm: Kvm, start: int, end: int) -> Iterator[tuple[Memslot, int, int]]:
    """Yield `(memslot, first gfn, number of pages)` for each slot that an hva range meets.

    `__kvm_handle_hva_range`; invalid slots are among them.
    """
    page_shift = kvm.page_shift
    for memslot in kvm.memslots:
        slot_end = memslot.userspace_addr + (memslot.npages << page_shift)
        hva_start, hva_end = max(start, memslot.userspace_addr), min(end, slot_end)
        if hva_start < hva_end:
            first = hva_start - memslot.userspace_addr >> page_shift
            last = hva_end - memslot.userspace_addr + (1 << page_shift) - 1 >> page_shift
            yield memslot, memslot.base_gfn + first, last - first


def gpas_of_leaves(tree: RadixTree, first: int, count: int) -> Iterator[int]:
    """Yield the gpa of every gfn of a range that has a leaf when its turn comes, ascending."""
    page_shift = tree.page_shift
    if count > len(tree.ptes) and not tree.pmd_leaves and not tree.pud_leaves:
        for gfn in sorted(gfn for gfn in tree.ptes if first <= gfn < first + count):
            if gfn in tree.ptes:
                yield gfn << page_shift
        return
    for gfn in range(first, first + count):
        if tree.find(gfn << page_shift)[0]:
            yield gfn << page_shift


def unmap_gfn_range(kvm: Kvm, memslot: Memslot, first: int, count: int) -> None:
    """Unmap the host leaves of `count` gfns from `first` (`kvm_unmap_radix` for each).

    A gfn without a host leaf is passed over: nobody looks at its chain.
    """
    if not kvm.radix:
        return
    for gpa in gpas_of_leaves(kvm.pgtable, first, count):
        unmap_pte(kvm, kvm.pgtable, gpa, kvm.pgtable.find(gpa)[1], memslot)


def age_range(kvm: Kvm, start: int, end: int) -> bool:
    """Clear R in the host leaves of an hva range and in the shadow leaves made from them.

    `kvm_mmu_notifier_clear_young` with `kvm_age_radix`, transition 19. Returns
    whether any R was set. Only the chain of the gfn itself is looked at: for a huge
    leaf that is the one that counts only if the gfn is the first of the leaf (finding
    0010; `mended`: it is that of the leaf's first gfn).
    """
    young = False
    pgtable = kvm.pgtable
    for memslot, first, count in slots_of_range(kvm, start, end):
        for gpa in gpas_of_leaves(pgtable, first, count):
            pte, shift = pgtable.find(gpa)
            if pte & PTE_R:
                pgtable.change(gpa, shift, pte & ~PTE_R)
                start_gpa = gpa & -1 << shift if shift and "0010" in kvm.facts.mended else gpa
                index = (start_gpa >> kvm.page_shift) - memslot.base_gfn
                update_nest_rmap_rc_list(kvm, memslot, index, PTE_R, pte & PTE_RPN, shift)
                young = True
    return young


def test_age(kvm: Kvm, hva: int) -> bool:
    """Return whether R is set in the host leaf of an hva (`kvm_test_age_radix`, transition 19).

    R of the shadow leaves is not looked at: a page that only nested guests use
    counts as old once R was cleared in the host leaf.
    """
    for _, first, _ in slots_of_range(kvm, hva, hva + 1):
        if kvm.pgtable.find(first << kvm.page_shift)[0] & PTE_R:
            return True
    return False
