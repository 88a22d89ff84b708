"""A nested guest's page fault: R and C, permissions, sizes, the leaf that is set."""

from tests.mutants.mutant import Mutant

REFERENCE_AND_CHANGE = [
    Mutant(
        "ageing-forgets-shadow-leaves",
        "notifier.py",
        "update_nest_rmap_rc_list(kvm, memslot, index, PTE_R, pte & PTE_RPN, shift)",
        "pass",
        "ageing clears R in the host leaf only",
        "ae59a7e1945b (rc bits in shadow pgtable in sync, 5.0)",
    ),
    Mutant(
        "dirty-clear-forgets-shadow-leaves",
        "dirty.py",
        "    update_nest_rmap_rc_list(kvm, memslot, index, PTE_C, pte & PTE_RPN, shift)\n",
        "",
        "the dirty log clears C in the host leaf only",
        "ae59a7e1945b (rc bits in shadow pgtable in sync, 5.0)",
    ),
    Mutant(
        "rc-update-without-the-page-test",
        "unmap.py",
        "            if pte and kvm.same_page(pte, hpa, mask):",
        "            if pte:",
        "a stale entry clears R or C of another page's leaf",
    ),
    Mutant(
        "test-age-clears",
        "notifier.py",
        "            return True\n    return False",
        "            kvm.pgtable.change(first << kvm.page_shift, 0, 0)\n"
        "            return True\n    return False",
        "the question whether a page is young changes the leaf",
    ),
    Mutant(
        "c-not-combined",
        "fault.py",
        "    if not (guest & PTE_C and writing):\n        missing |= PTE_C\n",
        "",
        "a shadow leaf gets C from the host leaf whatever the guest's leaf says",
        "Apply combination of host and l1 pte rc (5.0)",
    ),
    Mutant(
        "r-not-combined",
        "fault.py",
        "missing = ~guest & (EAA_RWX | PTE_R)",
        "missing = ~guest & EAA_RWX",
        "a shadow leaf has R where the guest's leaf has it not",
        "Apply combination of host and l1 pte rc (5.0)",
    ),
    Mutant(
        "set-rc-forgets-the-host-leaf",
        "fault.py",
        "    if not set_rc(kvm, gpte.raddr, writing=writing):\n        return -EINVAL\n",
        "",
        "a storage interrupt for R or C sets it in the shadow leaf only",
        "bec6e03b5ea5 (mmu_lock between host and shadow rc, 5.0)",
    ),
    Mutant(
        "set-rc-in-two-sections",
        "fault.py",
        "    return 0 if set_shadow_rc(",
        '    yield "mmu_lock dropped"\n    return 0 if set_shadow_rc(',
        "mmu_lock is dropped between the host's and the shadow's R and C",
        "bec6e03b5ea5 (mmu_lock between host and shadow rc, 5.0)",
    ),
    Mutant(
        "set-rc-for-the-guest",
        "fault.py",
        "    if needed & ~gpte.pte:\n        return RESUME_HOST\n",
        "",
        "R or C that the guest's own leaf lacks is not reflected to it",
    ),
]

FAULTS = [
    Mutant(
        "write-permission-not-combined",
        "fault.py",
        "missing = ~guest & (EAA_RWX | PTE_R)",
        "missing = ~guest & (5 | PTE_R)",
        "a leaf that the guest maps read-only becomes writable",
    ),
    Mutant(
        "entry-under-the-sub-page",
        "fault.py",
        "index = (gpa >> shift << shift - kvm.page_shift) - memslot.base_gfn",
        "index = (gpa >> kvm.page_shift) - memslot.base_gfn",
        "the entry goes under the touched page, not the start of the host leaf",
        "Align gfn to L1 page size when inserting nest-rmap entry (5.0)",
    ),
    Mutant(
        "equal-huge-page-kept-whole",
        "fault.py",
        "actual = PMD_SHIFT if gpte.page_shift > PMD_SHIFT else kvm.page_shift",
        "actual = PMD_SHIFT if gpte.page_shift >= PMD_SHIFT else kvm.page_shift",
        "a 2M guest page over a 1G host page gets a 2M leaf",
    ),
    Mutant(
        "sub-page-bits-lost",
        "fault.py",
        "return pte | gpte.raddr & ((1 << shift) - (1 << actual)), actual",
        "return pte, actual",
        "a base page inside a huge host page maps its first page",
    ),
    Mutant(
        "small-guest-page-accepted",
        "fault.py",
        "    if gpte.page_shift < kvm.page_shift:\n"
        "        return unchanged._replace(resume=-EINVAL)\n",
        "",
        "a guest page smaller than the host's is mapped",
    ),
    Mutant(
        "refused-access-leaves-the-leaf",
        "fault.py",
        '            yield "invalidate the shadow leaf"\n'
        "            invalidate_shadow_pte(kvm, nested, fault.n_gpa)\n"
        "            return RETRY\n"
        "        return refused\n",
        "            return RETRY\n        return refused\n",
        "a shadow leaf that the guest's tree no longer allows stays",
    ),
    Mutant(
        "store-bit-not-forwarded",
        "fault.py",
        "return Outcome(RESUME_HOST, fault.dsisr & DSISR_ISSTORE | cause, asdr, forwarded=True)",
        "return Outcome(RESUME_HOST, cause, asdr, forwarded=True)",
        "the guest is not told that the access was a store",
    ),
    Mutant(
        "write-only-page-refused-to-loads",
        "fault.py",
        "elif not gpte.pte & (PTE_EAA_READ | PTE_EAA_WRITE):",
        "elif not gpte.pte & PTE_EAA_READ:",
        "a load through a leaf with W alone is forwarded to the guest",
    ),
    Mutant(
        "read-only-slot-written",
        "fault.py",
        "if read_only and fault.dsisr & DSISR_ISSTORE:",
        "if False:",
        "a store to a read-only slot does not become the nested guest's interrupt",
    ),
    Mutant(
        "sequence-not-checked",
        "create.py",
        'if kvm.invalidated_since(mmu_seq) or kvm.strikes("retry"):',
        'if kvm.strikes("retry"):',
        "a leaf is set although the host page went away meanwhile",
        "Increment mmu_notifier_seq when modifying radix pte rc bits (posted 2019)",
    ),
    Mutant(
        "entry-for-a-changed-leaf",
        "create.py",
        "        tree.ptes[key] = merged_pte(kvm, old, pte, tree.page_shift)\n        return 0\n"
        "    return set_leaf(kvm, tree.ptes",
        "        old = merged_pte(kvm, old, pte, tree.page_shift)\n"
        "        return set_leaf(kvm, tree.ptes, key, old, entry)\n"
        "    return set_leaf(kvm, tree.ptes",
        "a leaf that only gains bits is entered in the rmap again",
    ),
    Mutant(
        "leaf-replaced-not-merged",
        "create.py",
        "    return old | new\n",
        "    return new\n",
        "a leaf that gains bits loses those it had",
    ),
    Mutant(
        "huge-leaf-not-removed",
        "create.py",
        "        unmap_pte(kvm, tree, large << PMD_SHIFT, PMD_SHIFT)\n",
        "        tree.pmd_leaves.pop(large)\n",
        "a 2M leaf is replaced by base pages without the removal of its range",
    ),
    Mutant(
        "tables-forgotten-after-a-retry",
        "create.py",
        "        tree.pte_tables.add(large)\n",
        "",
        "a table that was put in is not there the next time",
    ),
]
