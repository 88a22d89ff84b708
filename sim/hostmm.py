"""The VMM's memory on the host: what system calls and the host's memory management do to it."""

from nestscope.sim.constants import EINVAL, PMD_SHIFT, PUD_SHIFT
from nestscope.sim.folio import dissolve
from nestscope.sim.fork import private_pages
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.pages import HostPages
from nestscope.sim.steps import Steps


class HostMemory(HostPages):
    """Pages of the VMM's address space, and all that changes them but a fault."""

    __slots__ = ()

    def discard(self, hva: int, length: int) -> Steps[None]:
        """Make whole pages absent: madvise(MADV_DONTNEED), `zap_page_range_single`.

        The notifier is called for the range even when nothing is there. A huge
        page that is only partly in the range is split first.
        """
        end = hva + length
        yield from self.before(hva, end)
        for shift, at in self.huge_pages(hva, end):
            if at < hva or at + (1 << shift) > end:
                yield from self.split(at, shift)
        for page in self.held_pages(hva, end):
            frame = self.pages.pop(page)
            self.contents.pop(frame, None)
        for shift, at in self.huge_pages(hva, end):
            first = self.huge[shift].pop(at >> shift)
            for frame in range(first, first + (1 << shift - self.page_shift)):
                self.contents.pop(frame, None)
        self.forget(range(hva >> self.page_shift, end >> self.page_shift))
        yield from self.after(hva, end)

    def advise_discard(self, hva: int, length: int) -> Steps[int]:
        """madvise(MADV_DONTNEED), VMA by VMA; of hugetlbfs memory whole pages from an aligned hva.

        `madvise_dontneed_free_valid_vma`: the end is rounded down there.
        """
        end = hva + length
        if not self.vmas.has_hugetlb(hva, end):
            yield from self.discard(hva, length)
            return 0
        for vma in self.vmas.overlapping(hva, end):
            start, stop = max(hva, vma.start), min(end, vma.end)
            if start & ((1 << vma.hugetlb) - 1):
                return -EINVAL
            stop &= -1 << vma.hugetlb
            if start < stop:
                yield from self.discard(start, stop - start)
        return 0

    def migrate(self, hva: int, length: int, moved: int | None = None) -> Steps[None]:
        """Move private pages to other frames, one after the other (`soft_offline_page`).

        `moved` says which were moved, bit i for page i; None: all. A page is looked up
        for reading first. A huge page is split to its base pages before one of them is
        moved, and that unmaps all of it (`unmap_folio`); hugetlbfs pages move as they are.
        """
        first = hva >> self.page_shift
        for i in range(length >> self.page_shift):
            at = (first + i) << self.page_shift
            frame, shift = self.find(first + i)
            if not frame:
                self.read_fault(first + i)
                frame, shift = self.find(first + i)
            if shift and self.vmas.has_hugetlb(at, at + 1):
                if moved is None or moved >> i & 1:
                    yield from self.migrate_huge(at & -1 << shift, shift)
                continue
            if frame != ZERO_FRAME:
                if shift:
                    yield from self.split(at & -1 << shift, shift, frozen=True)
                yield from dissolve(self, first + i, frame)
                if self.pages[first + i] == ZERO_FRAME:
                    continue  # it held nothing but zeros
                if moved is None or moved >> i & 1:
                    yield from self.before(at, at + self.page_size)
                    self.move_page(first + i, frame)
                    yield from self.after(at, at + self.page_size)

    def move_page(self, page: int, frame: int) -> None:
        """Move a base page; its PTE is as writable and as dirty as it was."""
        self.pass_migration(page)
        states = (self.shared, self.readonly, self.clean, self.soft_clean)
        kept = [known for known in states if page in known]
        self.move_contents(frame, self.new_page(page))
        for known in kept:
            known.add(page)

    def age(self, hva: int, length: int, *, by_reclaim: bool) -> Steps[list[tuple[int, int]]]:
        """Return the ranges `(start, end)` of which the notifier is told to clear R.

        Only private pages are aged. DAMON tells of as many bytes as the page has from the
        *byte* on that it sampled (`ptep_clear_young_notify`), which is in the page but not
        its first: the page after it is aged, too (finding 0009). Reclaim is exact, but
        splits a huge page first (`madvise_cold_or_pageout_pte_range`).
        """
        ranges = []
        for page in range(hva >> self.page_shift, hva + length >> self.page_shift):
            frame, shift = self.find(page)
            at = page << self.page_shift
            if frame in (0, ZERO_FRAME):
                continue
            if by_reclaim:
                if self.vmas.has_hugetlb(at, at + 1):
                    break
                if shift:
                    yield from self.split(at & -1 << shift, shift, frozen=True)
                yield from dissolve(self, page, frame)
                ranges.append((at, at + self.page_size))
            else:
                ranges.append((at, at + (1 << (shift or self.page_shift)) + 1))
        return ranges

    def migrate_huge(self, hva: int, shift: int) -> Steps[None]:
        """Move a whole huge page."""
        yield from self.before(hva, hva + (1 << shift))
        first = self.huge[shift][hva >> shift]
        self.huge[shift][hva >> shift] = fresh = self.fresh_block(shift)
        for i in range(1 << shift - self.page_shift):
            self.move_contents(first + i, fresh + i)
        yield from self.after(hva, hva + (1 << shift))

    def remap(self, hva: int, length: int) -> Steps[int]:
        """Put other pages with the same contents in the place of a range (mremap).

        The range is unmapped, then the pages that were filled elsewhere move in.
        -EINVAL where hugetlbfs memory would be cut, after it was read.
        """
        fresh: dict[int, int] = {}
        for page in range(hva >> self.page_shift, hva + length >> self.page_shift):
            old = self.read_fault(page)
            fresh[page] = self.next_frame
            self.next_frame += 1
            if old in self.contents:
                self.contents[fresh[page]] = bytearray(self.contents[old])
        if not self.vmas.can_cut(hva, hva + length):
            return -EINVAL
        for change in self.vmas.replace(hva, hva + length, origin=self.next_frame):
            for block in change.splits:
                yield from self.split(block, PMD_SHIFT)
        yield from self.discard(hva, length)
        for page, frame in fresh.items():
            self.map_page(page, frame)
        self.protected.difference_update(fresh)
        return 0

    def map_hugetlb(self, hva: int, length: int, shift: int) -> Steps[int]:
        """Map fresh hugetlbfs memory over a range (mmap with MAP_FIXED).

        Radix has pages of 2 MiB and 1 GiB only (`arch_hugetlb_valid_size`).
        """
        if shift not in HUGE_SHIFTS or (hva | length) & ((1 << shift) - 1):
            return -EINVAL
        if not self.vmas.can_cut(hva, hva + length):
            return -EINVAL
        self.vmas.replace(hva, hva + length, origin=self.next_frame, hugetlb=shift)
        self.next_frame += 1
        yield from self.discard(hva, length)
        end = hva + length
        self.protected.difference_update(range(hva >> self.page_shift, end >> self.page_shift))
        self.tables.difference_update(range(hva >> PMD_SHIFT, end >> PMD_SHIFT))
        return 0

    def collapse(self, hva: int, shift: int) -> Steps[None]:
        """Back `1 << shift` bytes at `hva` with one huge page (khugepaged, hugetlbfs).

        Contents stay; absent parts become zeros. Nothing happens where there is one.
        """
        end = hva + (1 << shift)
        if hva >> shift in self.huge.get(shift, ()):
            return
        yield from self.before(hva, end)
        first = self.fresh_block(shift)
        base = hva >> self.page_shift
        for page in self.held_pages(hva, end):
            self.move_contents(self.pages.pop(page), first + page - base)
        for size, at in self.huge_pages(hva, end):
            old = self.huge[size].pop(at >> size)
            for i in range(1 << size - self.page_shift):
                self.move_contents(old + i, first + (at >> self.page_shift) - base + i)
        self.huge.setdefault(shift, {})[hva >> shift] = first
        self.tables.difference_update(range(hva >> PMD_SHIFT, end >> PMD_SHIFT))
        self.forget(range(base, end >> self.page_shift))
        if shift > PMD_SHIFT:
            self.vmas.replace(hva, end, origin=first, hugetlb=shift)
        self.vmas.make_private(hva)
        yield from self.after(hva, end)

    def split(self, hva: int, shift: int, *, frozen: bool = False) -> Steps[None]:
        """Map a block by base pages; those of a huge page keep their frames.

        `__split_huge_pmd`, which tells the notifier without a huge page, too. `frozen`:
        to migration entries, which keep whether the page was dirty and soft-dirty.
        """
        end = hva + (1 << shift)
        yield from self.before(hva, end)
        first = self.huge.get(shift, {}).pop(hva >> shift, None)
        if first is not None:
            for i in range(1 << shift - self.page_shift):
                self.pages[(hva >> self.page_shift) + i] = first + i
                self.parts[first + i] = first
            if not frozen:
                self.map_parts(hva >> self.page_shift, 1 << shift - self.page_shift)
            self.tables.update(range(hva >> PMD_SHIFT, end >> PMD_SHIFT))
            if not self.huge[shift]:
                del self.huge[shift]
        yield from self.after(hva, end)

    def map_parts(self, first: int, count: int) -> None:
        """Know the bits that the PTEs of a huge page's parts get (`__split_huge_pmd_locked`)."""
        if self.habits.split_cleans:
            self.clean.update(range(first, first + count))
        if self.habits.split_sets_soft_dirty:
            self.soft_clean.difference_update(range(first, first + count))

    def cut(self, hva: int, length: int) -> Steps[None]:
        """Make a VMA of a range for a moment: what it cuts is split."""
        for block in self.vmas.cut(hva, hva + length):
            yield from self.split(block, PMD_SHIFT)

    def advise_huge(self, hva: int, length: int, *, on: bool) -> Steps[int]:
        """madvise(MADV_HUGEPAGE or MADV_NOHUGEPAGE): VMAs are cut, no page changes."""
        if not self.vmas.can_change(hva, hva + length, thp=on):
            return -EINVAL
        for change in self.vmas.advise_huge(hva, hva + length, on=on):
            for block in change.splits:
                yield from self.split(block, PMD_SHIFT)
        return 0

    def protect(self, hva: int, length: int, *, writable: bool) -> Steps[int]:
        """mprotect(2), VMA by VMA: each is cut first, then `change_protection` notifies around.

        A VMA that has the permission already is passed over (`mprotect_fixup`); -EINVAL
        where hugetlbfs memory would be cut.
        """
        if not self.vmas.can_change(hva, hva + length, writable=writable):
            return -EINVAL
        for change in self.vmas.protect(hva, hva + length, writable=writable):
            for block in change.splits:
                yield from self.split(block, PMD_SHIFT)
            yield from self.before(change.start, change.end)
            pages = range(change.start >> self.page_shift, change.end >> self.page_shift)
            if writable:
                self.protected.difference_update(pages)
                self.leave_readonly(change.start, change.end)
            else:
                self.protected.update(pages)
            yield from self.after(change.start, change.end)
        return 0

    def leave_readonly(self, start: int, end: int) -> None:
        """Keep those pages of a VMA read-only that mprotect does not make writable.

        `can_change_pte_writable`. Until their next write, which takes them as they are.
        """
        vma = self.vmas.at(start)
        for page in private_pages(self, start, end):
            huge = page not in self.pages
            stays = self.habits.huge_stays_readonly if huge else page in self.clean
            if vma is not None:
                stays |= bool(vma.hugetlb) or (page in self.soft_clean and not vma.soft_dirty)
            (self.readonly.add if stays else self.readonly.discard)(page)


HUGE_SHIFTS = (PMD_SHIFT, PUD_SHIFT)
"""Sizes of huge pages: log2 of 2 MiB and 1 GiB."""
