"""Taking leaves away: `kvmppc_unmap_pte` and the nested rmap removal that hangs on it."""

from nestscope.decoders.words.pte import PTE_C, PTE_RPN
from nestscope.sim import rmap
from nestscope.sim.constants import EFFECTIVE_BITS, PMD_SHIFT, PUD_SHIFT
from nestscope.sim.errors import HostDamageError
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.tree import RadixTree

RMAP_WORD = 8
KERNEL_RPN = (1 << 53) - 1
"""`PTE_RPN_MASK` without the page offset bits (facts B): narrower than the architected RPN."""


def unmap_pte(
    kvm: Kvm,
    tree: RadixTree,
    address: int,
    shift: int,
    memslot: Memslot | None = None,
    *,
    passed_gpa: int | None = None,
) -> None:
    """Clear the leaf at `address`; of the host tree, also every shadow leaf made from it.

    `kvmppc_unmap_pte`. `shift` is 0 for a base page. In a shadow tree nothing
    else happens: the rmap entry stays, now stale. `passed_gpa` is the guest
    address that the caller claims, where it is not `address`.
    """
    old = tree.find(address)[0]
    tree.change(address, shift, 0)
    if tree is not kvm.pgtable:
        return
    gpa = address if passed_gpa is None else passed_gpa
    if memslot is None:
        memslot = kvm.gfn_to_memslot(gpa >> kvm.page_shift)
        if memslot is None:
            return
    size = 1 << (shift or kvm.page_shift)
    remove_nest_rmap_range(kvm, memslot, gpa & ~(size - 1), old & PTE_RPN, size)
    if old & PTE_C and memslot.dirty is not None:
        first = (gpa >> kvm.page_shift) - memslot.base_gfn
        memslot.dirty.update(range(first, min(first + (size >> kvm.page_shift), memslot.npages)))


def remove_nest_rmap_range(kvm: Kvm, memslot: Memslot, gpa: int, hpa: int, nbytes: int) -> None:
    """Empty the chain of every gfn of a host leaf and clear what the entries lead to.

    `kvmhv_remove_nest_rmap_range`, transition 18. Of a leaf that begins before its slot
    the kernel's loop is empty: the index is a large unsigned number, its end a small one.
    """
    slot_rmap = memslot.rmap
    first = (gpa >> kvm.page_shift) - memslot.base_gfn
    last = first + (nbytes >> kvm.page_shift)
    if first < 0 < last:
        return
    if last > memslot.npages:
        require_within_array(kvm, memslot, last)
    if not slot_rmap:
        return
    mask = host_page_mask(kvm, nbytes)
    for index in range(first, last):
        if index in slot_rmap:
            for word in rmap.take(slot_rmap, index, whole="0001" in kvm.facts.mended):
                remove_nest_rmap(kvm, word, hpa & mask, mask)


def require_within_array(kvm: Kvm, memslot: Memslot, last: int) -> None:
    """Refuse to say what lies behind an rmap array: it ends with the page of its last word."""
    page = 1 << kvm.page_shift
    allocated = (memslot.npages * RMAP_WORD + page - 1) // page * page
    if last * RMAP_WORD > allocated:
        raise HostDamageError(
            "0003", f"{last} words of the rmap array of slot {memslot.id} are read"
        )


def host_page_mask(kvm: Kvm, nbytes: int) -> int:
    """Return the RPN bits in which two leaves over one host page of `nbytes` agree."""
    return KERNEL_RPN & ~(nbytes - 1) & ~((1 << kvm.page_shift) - 1)


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
    if pte and kvm.same_page(pte, hpa, mask):
        unmap_pte(kvm, nested.shadow, n_gpa, shift)


def update_nest_rmap_rc_list(
    kvm: Kvm, memslot: Memslot, index: int, clear: int, hpa: int, shift: int
) -> None:
    """Clear R or C in the shadow leaves that one chain leads to (transitions 19 and 20).

    `kvmhv_update_nest_rmap_rc_list`; the chain stays. `shift` is the host
    leaf's, 0 for a base page.
    """
    chain = memslot.rmap.get(index)
    if chain is None:
        return
    mask = host_page_mask(kvm, 1 << shift)
    for word in rmap.walked_words(chain, whole="0001" in kvm.facts.mended):
        l1_lpid, n_gpa = rmap.unpack(word)
        nested = kvm.nested.get(l1_lpid)
        if nested is not None:
            pte, found = nested.shadow.find(n_gpa)
            if pte and kvm.same_page(pte, hpa, mask):
                nested.shadow.change(n_gpa, found, pte & ~clear)


def free_pte_table(kvm: Kvm, tree: RadixTree, address: int) -> None:
    """Free the table of base pages at `address` (2 MiB) after unmapping what is in it.

    `kvmppc_unmap_free_pte` with `full=false`. It knows no guest address and
    passes the *host* page number of each leaf in its place (transitions 12 and 22):
    in a host tree the chains of the right gfns stay, and those of the gfns that
    happen to have these numbers are emptied (finding 0006).
    """
    base_shift = tree.page_shift
    block = (address & EFFECTIVE_BITS) >> PMD_SHIFT
    first = block << PMD_SHIFT - base_shift
    for key in range(first, first + (1 << PMD_SHIFT - base_shift)):
        if key in tree.ptes and "0006" in kvm.facts.mended:
            unmap_pte(kvm, tree, key << base_shift, 0)
        elif key in tree.ptes:
            frame = (tree.ptes[key] & PTE_RPN) >> base_shift
            number = kvm.host_pages.get(frame)
            if number is None:
                tree.ptes.pop(key)  # no slot has this number: only the leaf goes
            else:
                gpa = number << base_shift
                unmap_pte(kvm, tree, key << base_shift, 0, passed_gpa=gpa)
    tree.pte_tables.discard(block)


def free_pmd_table(kvm: Kvm, tree: RadixTree, address: int) -> None:
    """Free the table below a 1 GiB entry, as `kvmppc_unmap_free_pmd` with `full=false` does."""
    block = (address & EFFECTIVE_BITS) >> PUD_SHIFT
    first = block << PUD_SHIFT - PMD_SHIFT
    for key in range(first, first + (1 << PUD_SHIFT - PMD_SHIFT)):
        if key in tree.pmd_leaves and "0006" in kvm.facts.mended:
            unmap_pte(kvm, tree, key << PMD_SHIFT, PMD_SHIFT)
        elif key in tree.pmd_leaves:
            frame = (tree.pmd_leaves[key] & PTE_RPN) >> tree.page_shift
            number = kvm.host_pages.get(frame)
            if number is None:
                tree.pmd_leaves.pop(key)
            else:
                gpa = number << tree.page_shift
                unmap_pte(kvm, tree, key << PMD_SHIFT, PMD_SHIFT, passed_gpa=gpa)
        elif key in tree.pte_tables:
            free_pte_table(kvm, tree, key << PMD_SHIFT)
    tree.pmd_tables.discard(block)


def invalidate_shadow_pte(kvm: Kvm, nested: NestedGuest, n_gpa: int) -> int:
    """Clear the shadow leaf at `n_gpa` and return its shift, PAGE_SHIFT without one.

    `kvmhv_invalidate_shadow_pte`, one section under `mmu_lock`: the tree is that
    of the nested guest which the idr holds under this l1_lpid now. The rmap is not
    touched (transition 15). Without any (`nested` was dropped from the idr while a
    vCPU is in it) the kernel leaves the shift uninitialised.
    """
    found = kvm.nested.get(nested.l1_lpid)
    if found is None:
        return kvm.page_shift
    pte, shift = found.shadow.find(n_gpa)
    if pte:
        unmap_pte(kvm, found.shadow, n_gpa, shift)
    return shift or kvm.page_shift
