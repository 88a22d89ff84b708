"""What the guest and its VMM take away: H_TLB_INVALIDATE, H_RPT_INVALIDATE, memslots."""

from tests.mutants.mutant import Mutant

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
