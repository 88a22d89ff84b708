"""The VMM's memory on the host: fork, huge pages, VMAs, what a page fault brings."""

from tests.mutants.mutant import Mutant

HOST = [
    Mutant(
        "zero-page-replaced-unnotified",
        "pages.py",
        "        yield from self.before(start, start + self.page_size)\n"
        "        frame = self.new_page(page)\n"
        "        yield from self.after(start, start + self.page_size)\n"
        "        return frame\n",
        "        return self.new_page(page)\n",
        "a write over the zero page changes the translation and tells nobody",
    ),
    Mutant(
        "huge-page-over-a-table",
        "pages.py",
        "if block in self.tables or not self.habits.has_huge_pages:",
        "if not self.habits.has_huge_pages:",
        "a fault brings a huge page where there is a table of base pages",
    ),
    Mutant(
        "discard-of-a-part-without-a-split",
        "hostmm.py",
        "            if at < hva or at + (1 << shift) > end:\n",
        "            if False:\n",
        "madvise(MADV_DONTNEED) of a part of a huge page takes all of it",
    ),
    Mutant(
        "damon-ages-its-page-only",
        "hostmm.py",
        "ranges.append((at, at + (1 << (shift or self.page_shift)) + 1))",
        "ranges.append((at, at + (1 << (shift or self.page_shift))))",
        "DAMON does not age the page after the one it sampled (finding 0009)",
    ),
    Mutant(
        "move-makes-writable",
        "hostmm.py",
        "states = (self.shared, self.readonly, self.clean, self.soft_clean)",
        "states = (self.clean, self.soft_clean)",
        "a page that was read-only is writable once it has been moved",
    ),
    Mutant(
        "fork-tells-every-vma",
        "fork.py",
        "        if not vma.anon:\n            continue\n",
        "",
        "fork copies the page tables of a VMA that never had a private page",
    ),
    Mutant(
        "part-taken-after-fork",
        "fork.py",
        "    if shift or frame not in memory.parts:\n",
        "    if True:\n",
        "the first write after a fork takes a part of a huge page as it is",
    ),
    Mutant(
        "copy-after-fork-is-empty",
        "fork.py",
        "    memory.move_contents(frame, fresh)\n",
        "",
        "the copy that a write after a fork makes holds zeros",
    ),
    Mutant(
        "only-the-moved-part-unmapped",
        "folio.py",
        "    start = base << memory.page_shift\n"
        "    yield from memory.before(start, start + (1 << PMD_SHIFT))\n",
        "    start = page << memory.page_shift\n"
        "    yield from memory.before(start, start + memory.page_size)\n",
        "a folio that comes apart is unmapped only where one of its pages moves",
    ),
    Mutant(
        "written-part-becomes-the-zero-page",
        "folio.py",
        "if memory.habits.split_to_zero_page and mapped and memory.is_zero(part):",
        "if memory.habits.split_to_zero_page and mapped:",
        "a part of a split huge page becomes the zero page whatever it holds",
    ),
    Mutant(
        "block-split-outside-its-vma",
        "vmas.py",
        "and not vma.hugetlb and vma.start <= block and block + BLOCK <= vma.end:",
        "and not vma.hugetlb:",
        "a cut splits a block that reaches out of its VMA",
    ),
    Mutant(
        "second-cut-of-a-whole-vma",
        "vmas.py",
        "                blocks.append(block)\n            vma = replace(vma, start=at)\n",
        "                blocks.append(block)\n",
        "two cuts in one block split it twice, as if the VMA still began before it",
    ),
    Mutant(
        "clear-refs-leaves-pages-writable",
        "soft_dirty.py",
        "    memory.readonly.update(page for page in pages if page not in memory.shared)\n",
        "",
        "a page whose soft-dirty bit was cleared can be written unnoticed",
    ),
    Mutant(
        "clear-refs-takes-hugetlbfs",
        "soft_dirty.py",
        "            if not vma.hugetlb:  # `clear_refs_walk_ops` has no `hugetlb_entry`\n",
        "            if True:\n",
        "clear_refs makes hugetlbfs pages read-only, too",
    ),
    Mutant(
        "mprotect-forgets-soft-dirty",
        "hostmm.py",
        "stays |= bool(vma.hugetlb) or (page in self.soft_clean and not vma.soft_dirty)",
        "stays |= bool(vma.hugetlb)",
        "mprotect makes a page writable whose next write is to be noticed",
    ),
]
