"""What fork does to the VMM's memory: private pages are shared with a child for a moment.

The child has ended before anything is written. The pages stay read-only until then, and a
fault finds that they are the VMM's alone, but for parts of a larger folio.
"""

from typing import TYPE_CHECKING

from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.steps import Steps

if TYPE_CHECKING:
    from nestscope.sim.pages import HostPages


def fork(memory: "HostPages") -> Steps[None]:
    """Make every private page read-only, VMA by VMA, and tell the notifier of each VMA.

    `dup_mmap`, `copy_page_range`. The zero page is not written anyway. A VMA without
    `anon_vma` has no private page and is passed over (`vma_needs_copy`).
    """
    for vma in list(memory.vmas.vmas):
        if not vma.anon:
            continue
        yield from memory.before(vma.start, vma.end)
        memory.shared.update(private_pages(memory, vma.start, vma.end))
        yield from memory.after(vma.start, vma.end)


def private_pages(memory: "HostPages", start: int, end: int) -> list[int]:
    """Return the private pages of an hva range; all pages of its huge pages."""
    found = [page for page in memory.held_pages(start, end) if memory.pages[page] != ZERO_FRAME]
    for shift, at in memory.huge_pages(start, end):
        found += range(at >> memory.page_shift, at + (1 << shift) >> memory.page_shift)
    return found


def unshare(memory: "HostPages", page: int) -> Steps[int]:
    """Return the frame of a page that is written for the first time after a fork.

    It is the old one where nobody else holds the folio: `wp_can_reuse_anon_folio`,
    `do_huge_pmd_wp_page`; the notifier is not called. A base page of a split huge page is
    copied (`wp_page_copy`), but for the last one that is mapped where the host looks at the
    references alone (`reuses_last_part`, `do_wp_page`), or for all others where it knows
    who maps a folio (`reuses_parts`, `__wp_can_reuse_large_anon_folio`).
    """
    frame, shift = memory.find(page)
    if shift or frame not in memory.parts:
        return memory.take(page)
    last = mapped_parts(memory, page, frame) == 1
    if memory.habits.reuses_last_part if last else memory.habits.reuses_parts:
        return memory.take(page)
    start = page << memory.page_shift
    yield from memory.before(start, start + memory.page_size)
    fresh = memory.new_page(page)
    memory.move_contents(frame, fresh)
    yield from memory.after(start, start + memory.page_size)
    return fresh


def mapped_parts(memory: "HostPages", page: int, frame: int) -> int:
    """Return how many parts of a huge page are mapped still; `frame`, at `page`, is one."""
    first = memory.parts[frame]
    base = page - (frame - first)
    count = 1 << PMD_SHIFT - memory.page_shift
    return sum(memory.pages.get(base + i) == first + i for i in range(count))
