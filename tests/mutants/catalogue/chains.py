"""The rmap: how entries get into a chain, and what the removal of a host leaf makes of them."""

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
