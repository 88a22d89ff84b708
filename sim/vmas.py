"""The VMM's VMAs, as far as they decide which huge pages the host splits.

Adjacent ranges of equal attributes are one VMA. Where a VMA is cut inside a huge page's
range, Linux splits the mapping of that range whether or not there is a huge page, and
tells the MMU notifier so (`vma_adjust_trans_huge`, `__split_huge_pmd`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from nestscope.sim.constants import PMD_SHIFT

BLOCK = 1 << PMD_SHIFT


@dataclass(frozen=True, slots=True)
class Vma:
    """A range of hva, `start` to `end`, in bytes.

    `writable`: PROT_WRITE. `origin`: where its pages were first mapped, 0 for in place;
    ranges that came from elsewhere (mremap) do not merge with others (`vm_pgoff`).
    """

    start: int
    end: int
    writable: bool = True
    origin: int = 0

    def merges(self, following: "Vma") -> bool:
        """Whether it is one with the VMA that follows."""
        same = (self.writable, self.origin) == (following.writable, following.origin)
        return same and self.end == following.start


class Change(NamedTuple):
    """A part of one VMA that changes, and the 2 MiB blocks that are split before (hva)."""

    start: int
    end: int
    splits: list[int]


class Vmas:
    """All VMAs of guest memory, ascending."""

    __slots__ = ("vmas",)

    def __init__(self) -> None:
        self.vmas: list[Vma] = []

    def map(self, start: int, end: int) -> None:
        """Map fresh memory where there is none (MAP_FIXED_NOREPLACE of the gaps)."""
        for vma in [vma for vma in self.vmas if vma.start < end and start < vma.end]:
            if start < vma.start:
                self.vmas.append(Vma(start, vma.start))
            start = max(start, vma.end)
        if start < end:
            self.vmas.append(Vma(start, end))
        self.merge()

    def protect(self, start: int, end: int, *, writable: bool) -> list[Change]:
        """mprotect: return what changes, VMA by VMA; those that are so already do not."""
        return self.change(start, end, writable=writable)

    def replace(self, start: int, end: int, origin: int) -> list[Change]:
        """Unmap a range and put pages from elsewhere there (mremap); as `protect`."""
        return self.change(start, end, writable=True, origin=origin)

    def cut(self, start: int, end: int) -> list[int]:
        """Give a range another flag for a moment; return the blocks that are split."""
        return [block for vma in self.overlapping(start, end) for block in cuts(vma, start, end)]

    def change(
        self, start: int, end: int, *, writable: bool, origin: int | None = None
    ) -> list[Change]:
        """Change the attributes of a range, VMA by VMA."""
        changes: list[Change] = []
        for vma in self.overlapping(start, end):
            origin_now = vma.origin if origin is None else origin
            if (vma.writable, vma.origin) == (writable, origin_now):
                continue
            first, last = max(start, vma.start), min(end, vma.end)
            changes.append(Change(first, last, cuts(vma, start, end)))
            parts = [
                replace(vma, end=first),
                Vma(first, last, writable, origin_now),
                replace(vma, start=last),
            ]
            self.vmas.remove(vma)
            self.vmas += [part for part in parts if part.start < part.end]
        self.merge()
        return changes

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """Return the VMAs that a range touches, ascending."""
        return [vma for vma in self.vmas if vma.start < end and start < vma.end]

    def merge(self) -> None:
        """Sort, and make one of neighbours with equal attributes."""
        merged: list[Vma] = []
        for vma in sorted(self.vmas, key=lambda vma: vma.start):
            if merged and merged[-1].merges(vma):
                merged[-1] = replace(merged[-1], end=vma.end)
            else:
                merged.append(vma)
        self.vmas = merged


def cuts(vma: Vma, start: int, end: int) -> list[int]:
    """Return the blocks that are split where `start` and `end` cut a VMA, in this order.

    `split_huge_pmd_if_needed`: the whole block must lie in the VMA, which after the
    first cut begins there.
    """
    blocks = []
    for at in (start, end):
        block = at & -BLOCK
        if vma.start < at < vma.end:
            if at != block and vma.start <= block and block + BLOCK <= vma.end:
                blocks.append(block)
            vma = replace(vma, start=at)
    return blocks
