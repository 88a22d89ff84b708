"""The VMM's pages on the host, and the faults that bring them: anonymous and private.

Each page is absent, the shared zero page (after a read) or private (after a
write). Private pages are base pages, or parts of a huge page: where the model is
told so (`collapse`), or where a fault may bring one (`fault_huge`).
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.facts import NO_HABITS, MemoryHabits
from nestscope.sim.fork import unshare
from nestscope.sim.frames import ZERO_FRAME, Frames
from nestscope.sim.steps import Steps
from nestscope.sim.vmas import Vmas


class MmuNotifier(Protocol):
    """Who is told before translations of an hva range change, and afterwards."""

    def start(self, start: int, end: int) -> Steps[None]:
        """`invalidate_range_start`."""
        ...

    def end(self, start: int, end: int) -> Steps[None]:
        """`invalidate_range_end`."""
        ...


class HostPages(Frames):
    """Pages of the VMM's address space; addresses are host virtual (hva), in bytes.

    `pages`: frames of base pages, by hva >> page_shift. `huge[shift]`: first
    frames of huge pages, by hva >> shift. `protected`: pages that the VMM made
    read-only. `shared`: private pages that fork made read-only. `readonly`: private
    pages that nobody shares and that are read-only nevertheless. `clean`: private pages
    whose PTE has C clear, which is known only where it matters (`split_cleans`).
    `soft_clean`: private pages whose soft-dirty bit is clear.
    `tables`: blocks (hva >> 21) with a table of base pages, which stays when the pages go.
    `huge_refused`: faults to come that find no memory for a huge page. `parts`: frames of
    a huge page that is mapped by base pages, with its first frame. Methods that change
    translations are paths (`sim.steps`): the notifier runs before and after them.
    """

    __slots__ = (
        "clean",
        "habits",
        "huge",
        "huge_refused",
        "notifier",
        "pages",
        "parts",
        "protected",
        "readonly",
        "shared",
        "soft_clean",
        "tables",
        "vmas",
    )

    def __init__(
        self,
        page_shift: int,
        first_frame: int = ZERO_FRAME + 1,
        habits: MemoryHabits = NO_HABITS,
    ) -> None:
        super().__init__(page_shift, first_frame)
        self.habits = habits
        self.pages: dict[int, int] = {}
        self.huge: dict[int, dict[int, int]] = {}
        self.protected: set[int] = set()
        self.shared: set[int] = set()
        self.readonly: set[int] = set()
        self.clean: set[int] = set()
        self.soft_clean: set[int] = set()
        self.parts: dict[int, int] = {}
        self.vmas = Vmas()
        self.tables: set[int] = set()
        self.huge_refused = 0
        self.notifier: MmuNotifier | None = None

    def find(self, page: int) -> tuple[int, int]:
        """Return `(frame, shift)` of a page, `(0, 0)` without one; `shift` is 0 for a base page.

        `__find_linux_pte` on the VMM's tree; the frame is that of the base page.
        """
        frame = self.pages.get(page)
        if frame is not None:
            return frame, 0
        for shift, blocks in self.huge.items():
            bits = shift - self.page_shift
            first = blocks.get(page >> bits)
            if first is not None:
                return first + (page & ((1 << bits) - 1)), shift
        return 0, 0

    def read_fault(self, page: int) -> int:
        """Return the frame of `page` for reading; an absent page gets the zero page, or a huge one.

        `do_anonymous_page` without FAULT_FLAG_WRITE: no notifier is called.
        """
        frame = self.find(page)[0]
        if not frame:
            frame = self.fault_hugetlb(page, writing=False) or self.fault_huge(page)
        return frame or self.map_page(page, ZERO_FRAME)

    def private_frame(self, page: int) -> int:
        """Return the frame that may be written now, 0 without one.

        `get_user_page_fast_only(FOLL_WRITE)`.
        """
        frame = self.pages.get(page)
        if frame is None and self.huge:
            frame = self.find(page)[0]
        if not frame or frame == ZERO_FRAME or page in self.protected:
            return 0
        return 0 if page in self.shared or page in self.readonly else frame

    def write_fault(self, page: int) -> Steps[int]:
        """Return the private frame of `page`, 0 (-EFAULT) if it is protected.

        `do_anonymous_page` for an absent page (no notifier), `wp_page_copy` for
        the zero page, which notifies before it changes the translation.
        """
        frame = self.private_frame(page)
        if frame or page in self.protected:
            return frame
        if page in self.shared:
            return (yield from unshare(self, page))
        if page in self.readonly:
            return self.take(page)
        if self.pages.get(page) != ZERO_FRAME:
            frame = self.fault_hugetlb(page, writing=True) or self.fault_huge(page)
            return frame or self.new_page(page)
        start = page << self.page_shift
        yield from self.before(start, start + self.page_size)
        frame = self.new_page(page)
        yield from self.after(start, start + self.page_size)
        return frame

    def take(self, page: int) -> int:
        """Make a page that is the VMM's alone writable and dirty; return its frame.

        `wp_page_reuse`, `do_huge_pmd_wp_page`: no notifier is called.
        """
        frame, shift = self.find(page)
        bits = shift - self.page_shift if shift else 0
        first = page >> bits << bits
        self.forget(range(first, first + (1 << bits)))
        return frame

    def forget(self, pages: Iterable[int]) -> None:
        """Know nothing of why pages could not be written: they went, or are fresh."""
        for known in (self.shared, self.readonly, self.clean, self.soft_clean):
            if known:
                known.difference_update(pages)

    def pass_migration(self, page: int) -> None:
        """Let the PTE of a page be a migration entry for a while (`remove_migration_pte`)."""
        if self.habits.migration_sets_soft_dirty and page not in self.clean:
            self.soft_clean.discard(page)

    def new_page(self, page: int) -> int:
        """Back a page with a fresh frame."""
        frame = self.next_frame
        self.next_frame += 1
        return self.map_page(page, frame)

    def map_page(self, page: int, frame: int) -> int:
        """Map a base page; return its frame. Its table comes with the first one."""
        self.pages[page] = frame
        self.forget((page,))
        if frame != ZERO_FRAME:
            self.vmas.make_private(page << self.page_shift)
        self.tables.add(page >> PMD_SHIFT - self.page_shift)
        return frame

    def fault_huge(self, page: int) -> int:
        """Back an absent page with a huge page and return its frame; 0 if that cannot be.

        `do_huge_pmd_anonymous_page`: no notifier is called. The lab's kernel is told to
        use no huge zero page, so that a read brings a private page, too.
        """
        block = page >> PMD_SHIFT - self.page_shift
        if block in self.tables or not self.habits.has_huge_pages:
            return 0
        if not self.vmas.allows_huge(block << PMD_SHIFT):
            return 0
        if self.huge_refused:
            self.huge_refused -= 1
            return 0
        self.vmas.make_private(block << PMD_SHIFT)
        self.huge.setdefault(PMD_SHIFT, {})[block] = self.fresh_block(PMD_SHIFT)
        return self.find(page)[0]

    def fault_hugetlb(self, page: int, *, writing: bool) -> int:
        """Back an absent page of hugetlbfs memory; return its frame, 0 for other memory.

        `hugetlb_no_page`: no notifier is called. There is no zero page; a read brings a
        private page that is read-only until it is written (`hugetlb_wp` reuses it).
        """
        vma = self.vmas.at(page << self.page_shift)
        if vma is None or not vma.hugetlb:
            return 0
        block = page << self.page_shift >> vma.hugetlb
        self.vmas.make_private(vma.start)
        self.huge.setdefault(vma.hugetlb, {})[block] = self.fresh_block(vma.hugetlb)
        if not writing:
            bits = vma.hugetlb - self.page_shift
            self.readonly.update(range(block << bits, block + 1 << bits))
        return self.find(page)[0]

    def before(self, start: int, end: int) -> Steps[None]:
        """Tell the notifier that translations of a range will change."""
        if self.notifier is not None:
            yield "invalidate_range_start"
            yield from self.notifier.start(start, end)
            yield "change the translation"

    def after(self, start: int, end: int) -> Steps[None]:
        """Tell the notifier that they have changed."""
        if self.notifier is not None:
            yield "invalidate_range_end"
            yield from self.notifier.end(start, end)

    def chunks(self, hva: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield `(page, offset, length)` of every page that a range touches."""
        while length:
            offset = hva & (self.page_size - 1)
            part = min(length, self.page_size - offset)
            yield hva >> self.page_shift, offset, part
            hva += part
            length -= part

    def read(self, hva: int, length: int) -> bytes:
        """Read as user space or `copy_from_user` does: absent pages become the zero page."""
        offset = hva & (self.page_size - 1)
        if offset + length <= self.page_size:
            page = hva >> self.page_shift
            frame = self.pages.get(page) or self.read_fault(page)
            return self.read_frame(frame, offset, length)
        return b"".join(
            self.read_frame(self.read_fault(page), offset, part)
            for page, offset, part in self.chunks(hva, length)
        )

    def write(self, hva: int, data: bytes) -> Steps[bool]:
        """Write as user space or `copy_to_user` does; False at a protected page."""
        done = 0
        for page, offset, part in self.chunks(hva, len(data)):
            frame = self.private_frame(page)
            if not frame:
                frame = yield from self.write_fault(page)
                if not frame:
                    return False
            self.clean.discard(page)
            self.write_frame(frame, offset, data[done : done + part])
            done += part
        return True

    def held_pages(self, hva: int, end: int) -> list[int]:
        """Return the base pages of a range that are there."""
        first, last = hva >> self.page_shift, end >> self.page_shift
        if last - first > len(self.pages):
            return sorted(page for page in self.pages if first <= page < last)
        return [page for page in range(first, last) if page in self.pages]

    def huge_pages(self, hva: int, end: int) -> list[tuple[int, int]]:
        """Return `(shift, hva)` of every huge page that a range touches."""
        return [
            (shift, block << shift)
            for shift, blocks in self.huge.items()
            for block in sorted(blocks)
            if hva < block + 1 << shift and block << shift < end
        ]
