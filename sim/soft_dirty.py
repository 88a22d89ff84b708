"""Soft-dirty bits: what /proc/PID/clear_refs does to the VMM's pages."""

from nestscope.sim.constants import EINVAL, ERANGE, U64
from nestscope.sim.fork import private_pages
from nestscope.sim.pages import HostPages
from nestscope.sim.steps import Steps

CLEAR_REFS_SOFT_DIRTY = 4
KINDS = range(1, 6)
"""`enum clear_refs_types`: all, anonymous and mapped pages, soft-dirty bits, the peak of RSS."""
INT_MAX = (1 << 31) - 1


def clear_refs(memory: HostPages, what: int) -> Steps[int]:
    """Write a number to clear_refs; return 0 or a negative errno (`clear_refs_write`).

    Only 4 tells the notifier, of all addresses at once. The accessed bits that 1, 2 and 3
    clear are those of the VMM's own PTEs: no guest sees them.
    """
    if what > INT_MAX:
        return -ERANGE
    if what not in KINDS:
        return -EINVAL
    if what == CLEAR_REFS_SOFT_DIRTY:
        memory.vmas.forget_soft_dirty()
        yield from memory.before(0, U64)
        for vma in memory.vmas.vmas:
            if not vma.hugetlb:  # `clear_refs_walk_ops` has no `hugetlb_entry`
                clear_soft_dirty(memory, private_pages(memory, vma.start, vma.end))
        yield from memory.after(0, U64)
    return 0


def clear_soft_dirty(memory: HostPages, pages: list[int]) -> None:
    """Make pages read-only, so that their next write is noticed (`clear_soft_dirty`)."""
    memory.soft_clean.update(pages)
    memory.readonly.update(page for page in pages if page not in memory.shared)
