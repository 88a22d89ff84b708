"""The catalogue of mutants: the model wrong in one line's worth, each time another.

A mutant that repeats a defect which Linux once had names its fix in `history`.
"""

from tests.mutants.mutant import Mutant

RMAP = [
    Mutant(
        "dedupe-left-out",
        "rmap.py",
        "    elif word in chain or chain[0] == word | RMAP_SINGLE:\n        return\n",
        "",
        "an entry that a list already holds is pushed again",
    ),
    Mutant(
        "dedupe-forgets-the-tail",
        "rmap.py",
        "elif word in chain or chain[0] == word | RMAP_SINGLE:",
        "elif word in chain:",
        "the scan for duplicates does not look at the tail",
    ),
    Mutant(
        "single-not-deduped",
        "rmap.py",
        "if chain != word | RMAP_SINGLE:",
        "if True:",
        "a second insertion of a single entry makes a list of two",
    ),
    Mutant(
        "low-bit-lost",
        "rmap.py",
        "rmap[index] = word | RMAP_SINGLE",
        "rmap[index] = word",
        "a single entry is stored without bit 0",
    ),
    Mutant(
        "pushed-at-the-tail",
        "rmap.py",
        "    chain.append(word)",
        "    chain.insert(1, word)",
        "a new entry goes behind the others instead of in front",
    ),
    Mutant(
        "list-drops-the-old-entry",
        "rmap.py",
        "rmap[index] = [chain, word]",
        "rmap[index] = word | RMAP_SINGLE",
        "the second entry replaces the first",
    ),
    Mutant(
        "wrong-lpid-shift",
        "rmap.py",
        "return ((l1_lpid << RMAP_LPID_SHIFT) & U64) | (n_gpa & RMAP_GPA)",
        "return ((l1_lpid << RMAP_LPID_SHIFT - 1) & U64) | (n_gpa & RMAP_GPA)",
        "the LPID is packed one bit too low",
    ),
    Mutant(
        "walk-passes-a-zero-entry",
        "rmap.py",
        "        if word == 0 and not whole:\n            return\n",
        "",
        "a walk goes on behind an entry that packs to 0, where the kernel stops",
    ),
    Mutant(
        "stale-chain-kept",
        "rmap.py",
        "chain = rmap.pop(index, None)",
        "chain = rmap.get(index)",
        "removal leaves the chain in place",
    ),
]

REMOVAL = [
    Mutant(
        "range-one-short",
        "unmap.py",
        "    for index in range(first, last):",
        "    for index in range(first, last - 1):",
        "the last gfn of a host leaf is left out of the removal",
    ),
    Mutant(
        "only-the-first-gfn",
        "unmap.py",
        "for index in range(first, last):",
        "for index in range(first, first + 1):",
        "removal looks at the first gfn of a host leaf only",
    ),
    Mutant(
        "removal-without-the-page-test",
        "unmap.py",
        "    if pte and kvm.same_page(pte, hpa, mask):\n        unmap_pte",
        "    if pte:\n        unmap_pte",
        "a stale entry clears a leaf that maps another host page by now",
    ),
    Mutant(
        "removal-mask-of-a-base-page",
        "unmap.py",
        "return KERNEL_RPN & ~(nbytes - 1) & ~((1 << kvm.page_shift) - 1)",
        "return KERNEL_RPN & ~((1 << kvm.page_shift) - 1)",
        "leaves over a huge host page are compared with base page precision",
    ),
    Mutant(
        "shadow-unmap-touches-the-rmap",
        "unmap.py",
        "    if tree is not kvm.pgtable:\n        return\n",
        "",
        "clearing a shadow leaf removes chains as if it were a host leaf",
    ),
    Mutant(
        "shadow-leaves-survive",
        "unmap.py",
        "        unmap_pte(kvm, nested.shadow, n_gpa, shift)\n\n\ndef update_nest",
        "        pass\n\n\ndef update_nest",
        "removal empties the chain but leaves the shadow leaves",
    ),
    Mutant(
        "dirty-lost-at-unmap",
        "unmap.py",
        "if old & PTE_C and memslot.dirty is not None:",
        "if False:",
        "a dirty page that is unmapped is not noted in the log",
    ),
    Mutant(
        "notifier-touches-the-first-gfn-only",
        "notifier.py",
        "    for gpa in gpas_of_leaves(kvm.pgtable, first, count):\n        unmap_pte",
        "    for gpa in gpas_of_leaves(kvm.pgtable, first, 1):\n        unmap_pte",
        "an invalidated range loses only its first page",
        "32b48bf8514c (gfn-based notifiers, 5.13-rc)",
    ),
    Mutant(
        "hpt-notifier-walks-radix",
        "notifier.py",
        "    if not kvm.radix:\n        return\n",
        "",
        "a notifier of an HPT guest walks the radix tree that is going away",
        "234ff0b729ad (notifier against MMU-mode switch)",
    ),
]

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

INVALIDATION = [
    Mutant(
        "tlbie-removes-the-entry",
        "unmap.py",
        "        unmap_pte(kvm, found.shadow, n_gpa, shift)\n    return shift or kvm.page_shift",
        "        unmap_pte(kvm, found.shadow, n_gpa, shift)\n"
        "        for memslot in kvm.memslots:\n"
        "            memslot.rmap.clear()\n"
        "    return shift or kvm.page_shift",
        "a tlbie takes rmap entries with it",
    ),
    Mutant(
        "tlbie-stops-after-one-page",
        "tlbie.py",
        "        if npages <= 0:\n",
        "        if True:\n",
        "a tlbie of a large page clears the first host page of it",
    ),
    Mutant(
        "tlbie-address-not-aligned",
        "tlbie.py",
        "    address &= ~((1 << shift) - 1)\n",
        "",
        "a tlbie begins at the address given, not at the start of the page",
    ),
    Mutant(
        "ap-encodings-swapped",
        "tlbie.py",
        "AP_SHIFT = {0: 12, 5: 16, 1: 21, 2: 30}",
        "AP_SHIFT = {0: 12, 5: 16, 2: 21, 1: 30}",
        "AP 1 means 1G and AP 2 means 2M",
    ),
    Mutant(
        "is-1-accepted",
        "tlbie.py",
        "ric == 3 or is_ == 1 or",
        "ric == 3 or",
        "a tlbie by PID is not refused",
    ),
    Mutant(
        "pwc-flush-empties",
        "tlbie.py",
        "    if ric == 0:\n        yield",
        "    if ric in (0, 1):\n        yield",
        "RIC=1 empties the shadow tree",
    ),
    Mutant(
        "all-lpids-holds-no-order",
        "tlbie.py",
        "        last = min(following)",
        "        last = max(following)",
        "RIC=2 for all LPIDs passes over all but the highest",
    ),
    Mutant(
        "partition-entry-not-reloaded",
        "nested.py",
        '    yield "read the partition table entry"\n    update_ptbl_cache(kvm, nested)\n',
        "",
        "RIC=2 keeps the old partition table entry",
    ),
    Mutant(
        "dropped-guest-stays-in-the-idr",
        "nested.py",
        "        yield from remove_nested(kvm, nested)",
        "        pass",
        "a nested guest whose partition table entry is 0 stays known",
    ),
    Mutant(
        "shadow-lpid-leaks",
        "nested.py",
        "    kvm.free_lpid(nested.shadow_lpid)\n",
        "",
        "the host LPID of a nested guest is never given back",
    ),
    Mutant(
        "partition-table-size-ignored",
        "nested.py",
        "    if l1_lpid >= partition_count(kvm.l1_ptcr):\n        return None\n",
        "",
        "an LPID beyond the partition table makes a nested guest",
    ),
    Mutant(
        "rpt-everything-after-the-type",
        "rpt.py",
        "    if start == 0 and end == U64:\n",
        "    if kind & TYPE_TLB and start == 0 and end == U64:\n",
        "PWC alone over everything leaves the shadow tree",
    ),
    Mutant(
        "rpt-ceiling-off-by-one",
        "rpt.py",
        "> PAGE_CEILING:",
        ">= PAGE_CEILING:",
        "33 pages flush the whole LPID",
    ),
]

SLOTS = [
    Mutant(
        "host-tree-goes-before-radix",
        "lifecycle.py",
        '    yield "clear radix"\n    kvm.radix = False\n'
        '    yield "free the host tree"\n    free_radix(kvm)\n    return 0\n',
        '    yield "free the host tree"\n    free_radix(kvm)\n'
        '    yield "clear radix"\n    kvm.radix = False\n    return 0\n',
        "the switch to HPT frees the host tree while radix is still on",
        "234ff0b729ad (notifier against MMU-mode switch)",
    ),
    Mutant(
        "huge-leaves-survive-logging",
        "memslots.py",
        "    if kvm.radix and (flags ^ old.flags) & KVM_MEM_LOG_DIRTY_PAGES:",
        "    if kvm.radix and old.flags & ~flags & KVM_MEM_LOG_DIRTY_PAGES:",
        "huge leaves stay when dirty logging begins",
        "5af3e9d06d83 (dirty logging with huge pages, 5.0)",
    ),
    Mutant(
        "huge-leaf-while-logging",
        "instantiate.py",
        "host_shift not in HUGE_SHIFTS or memslot.flags & KVM_MEM_LOG_DIRTY_PAGES:",
        "host_shift not in HUGE_SHIFTS:",
        "a slot that logs gets huge leaves",
        "5af3e9d06d83 (dirty logging with huge pages, 5.0)",
    ),
    Mutant(
        "flush-without-sequence",
        "memslots.py",
        "    kvm.mmu_invalidate_seq += 1\n",
        "",
        "a fault that read the old slot sets its leaf after the flush",
    ),
    Mutant(
        "deleted-slot-not-flushed",
        "memslots.py",
        "    flush_memslot(kvm, old)\n    return invalid",
        "    return invalid",
        "host leaves of a deleted slot stay",
    ),
    Mutant(
        "huge-leaf-whatever-the-alignment",
        "instantiate.py",
        "    if (gpa ^ hva) & (size - (1 << kvm.page_shift)):\n        return kvm.page_shift\n",
        "",
        "a huge leaf where guest and host address disagree below its size",
    ),
    Mutant(
        "host-tree-survives-the-vm",
        "lifecycle.py",
        '    yield "free the host tree"\n    free_radix(kvm)\n    yield from release_all_nested',
        "    yield from release_all_nested",
        "the end of a VM leaves the host tree",
    ),
]

ENTRY = [
    Mutant(
        "mixed-leaf-takes-the-new-page",
        "create.py",
        "    frame = kvm.mix(first, second, shift)\n",
        "    frame = second\n",
        "a leaf that gains another page maps that page instead of the OR of both",
    ),
    Mutant(
        "mixed-leaf-compared-by-name",
        "kvm.py",
        "        if self.mixed:\n            left, right",
        "        if not self.mixed:\n            left, right",
        "a mixed leaf whose number is one of its pages' survives that page",
    ),
    Mutant(
        "version-compared-by-its-lower-half",
        "enter.py",
        "    if entry.version > VERSION:\n        return not_entered(H_P2)\n",
        "",
        "H_ENTER_NESTED takes a version with something in its upper half",
    ),
    Mutant(
        "token-not-checked",
        "enter.py",
        "    if entry.vcpu_token >= NR_CPUS:",
        "    if entry.vcpu_token > NR_CPUS:",
        "the first vcpu_token that is too large is taken",
    ),
    Mutant(
        "transactional-state-entered",
        "enter.py",
        "    if entry.msr & MSR_TS_MASK:\n        return not_entered(H_BAD_MODE)\n",
        "",
        "a nested guest is entered in transactional state",
    ),
    Mutant(
        "time-never-up",
        "enter.py",
        "        result = left(entry.cpu, TRAP_HDEC)\n    else:",
        "        result = left(entry.cpu, TRAP_SYSCALL)\n    else:",
        "an entry without time left looks like one that ran",
    ),
    Mutant(
        "quadrants-accepted",
        "nested_cpu.py",
        "if effective & ~EFFECTIVE_BITS in (0, 0xC000_0000_0000_0000):",
        "if effective & 0x3FF0_0000_0000_0000 == 0:",
        "an address in the hypervisor's quadrants is translated",
    ),
    Mutant(
        "freed-page-read-as-zeros",
        "nested_memory.py",
        "    return frame in memory.pages.values() or any(",
        "    return True or any(",
        "what lies in a page that the host took back is taken for zeros",
    ),
]

MUTANTS = (
    *RMAP,
    *REMOVAL,
    *REFERENCE_AND_CHANGE,
    *FAULTS,
    *INVALIDATION,
    *SLOTS,
    *ENTRY,
)
"""All mutants."""
