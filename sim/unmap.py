"""Taking leaves away: `kvmppc_unmap_pte` and the nested rmap removal that hangs on it."""

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim import rmap
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.tree import RadixTree

KERNEL_RPN = (1 << 53) - 1
"""`PTE_RPN_MASK` without the page offset bits (facts B): narrower than the architected RPN."""


def unmap_host_leaf(kvm: Kvm, memslot: Memslot | None, gpa: int, shift: int) -> None:
    """Clear a leaf of the host tree, then every shadow leaf made from it.

    `kvmppc_unmap_pte` with the LPID of the VM itself. `shift` is 0 for a base page.
    """
    old = kvm.pgtable.find(gpa)[0]
    kvm.pgtable.change(gpa, shift, 0)
    if memslot is None:
        memslot = kvm.gfn_to_memslot(gpa >> kvm.page_shift)
        if memslot is None:
            return
    size = 1 << (shift or kvm.page_shift)
    remove_nest_rmap_range(kvm, memslot, gpa & ~(size - 1), old & PTE_RPN, size)


def unmap_shadow_leaf(shadow: RadixTree, n_gpa: int, shift: int) -> None:
    """Clear a leaf of a shadow tree. Its rmap entry stays, now stale.

    `kvmppc_unmap_pte` with a shadow LPID.
    """
    shadow.change(n_gpa, shift, 0)


def remove_nest_rmap_range(kvm: Kvm, memslot: Memslot, gpa: int, hpa: int, nbytes: int) -> None:
    """Empty the chain of every gfn of a host leaf and clear what the entries lead to.

    `kvmhv_remove_nest_rmap_range`, transition 18.
    """
    slot_rmap = memslot.rmap
    if not slot_rmap:
        return
    first = (gpa >> kvm.page_shift) - memslot.base_gfn
    mask = KERNEL_RPN & ~(nbytes - 1) & ~((1 << kvm.page_shift) - 1)
    for index in range(first, first + (nbytes >> kvm.page_shift)):
        if index in slot_rmap:
            for word in rmap.take(slot_rmap, index):
                remove_nest_rmap(kvm, word, hpa & mask, mask)


def remove_nest_rmap(kvm: Kvm, word: int, hpa: int, mask: int) -> None:
    """Clear the shadow leaf that one entry names, if it still maps that host page.

    `kvmhv_remove_nest_rmap`. The nested guest is looked up by its present
    l1_lpid: after a reuse (transition 25) only the host page tells.
    """
    l1_lpid, n_gpa = rmap.unpack(word)
    nested = kvm.nested.get(l1_lpid)
    if nested is None:
        return
    pte, shift = nested.shadow.find(n_gpa)
    if pte and pte & mask == hpa:
        unmap_shadow_leaf(nested.shadow, n_gpa, shift)


def invalidate_shadow_pte(kvm: Kvm, nested: NestedGuest, n_gpa: int) -> int:
    """Clear the shadow leaf at `n_gpa` and return its shift, PAGE_SHIFT without one.

    `kvmhv_invalidate_shadow_pte`: the tree is that of the nested guest which
    the idr holds under this l1_lpid now. The rmap is not touched (transition 15).
    """
    found = kvm.nested.get(nested.l1_lpid)
    if found is None:
        return kvm.page_shift
    pte, shift = found.shadow.find(n_gpa)
    if pte:
        unmap_shadow_leaf(found.shadow, n_gpa, shift)
    return shift or kvm.page_shift
