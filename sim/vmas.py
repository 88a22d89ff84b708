"""The VMM's VMAs, as far as they decide which huge pages the host splits.

Adjacent ranges of equal attributes are one VMA. Where a VMA is cut inside a huge page's
range, Linux splits the mapping of that range whether or not there is a huge page, and
tells the MMU notifier so (`vma_adjust_trans_huge`, `__split_huge_pmd`).
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.errors import UnmodelledError

BLOCK = 1 << PMD_SHIFT


@dataclass(frozen=True, slots=True)
class Vma:
    """A range of hva, `start` to `end`, in bytes.

    `writable`: PROT_WRITE. `origin`: where its pages were first mapped, 0 for in place;
    ranges that came from elsewhere (mremap) do not merge with others (`vm_pgoff`).
    `thp`: VM_HUGEPAGE, or else VM_NOHUGEPAGE. `anon`: it has had a private page
    (`anon_vma`); only then fork copies its page tables (`vma_needs_copy`). `soft_dirty`:
    VM_SOFTDIRTY, which new VMAs have and clear_refs takes away. `hugetlb`: log2 of
    the size of its hugetlbfs pages, 0 for a VMA of other memory; it cannot be cut inside one.
    """

    start: int
    end: int
    writable: bool = True
    origin: int = 0
    thp: bool = False
    hugetlb: int = 0
    soft_dirty: bool = field(default=True, compare=False)
    anon: bool = field(default=False, compare=False)

    def merges(self, following: "Vma") -> bool:
        """Whether it is one with the VMA that follows."""
        same = replace(self, start=following.start, end=following.end) == following
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
        self.merge(start, end)

    def protect(self, start: int, end: int, *, writable: bool) -> list[Change]:
        """mprotect: return what changes, VMA by VMA; those that are so already do not."""
        return self.change(start, end, {"writable": writable})

    def advise_huge(self, start: int, end: int, *, on: bool) -> list[Change]:
        """madvise: allow or forbid huge pages; as `protect`."""
        return self.change(start, end, {"thp": on})

    def make_private(self, hva: int) -> None:
        """Know that the VMA at `hva` has a private page (`anon_vma_prepare`)."""
        for i, vma in enumerate(self.vmas):
            if vma.start <= hva < vma.end and not vma.anon:
                self.vmas[i] = replace(vma, anon=True)

    def allows_huge(self, block: int) -> bool:
        """Whether a fault may bring a huge page at hva `block`: all of it in one such VMA.

        `thp_vma_allowable_order`, `thp_vma_suitable_order`.
        """
        vma = self.at(block)
        return vma is not None and vma.thp and not vma.hugetlb and block + BLOCK <= vma.end

    def at(self, hva: int) -> Vma | None:
        """Return the VMA that holds `hva`."""
        return next((vma for vma in self.vmas if vma.start <= hva < vma.end), None)

    def has_hugetlb(self, start: int, end: int) -> bool:
        """Whether there is hugetlbfs memory in a range."""
        return any(vma.hugetlb for vma in self.overlapping(start, end))

    def can_cut(self, start: int, end: int) -> bool:
        """Whether VMAs may begin and end there (`hugetlb_vm_op_split`)."""
        return all(can_cut(vma, start, end) for vma in self.overlapping(start, end))

    def can_change(self, start: int, end: int, **attributes: Any) -> bool:
        """Whether a range may get attributes: no VMA that changes is cut where it cannot be.

        Raises:
            UnmodelledError: if VMAs before that one change nevertheless.
        """
        changing = [
            vma for vma in self.overlapping(start, end) if replace(vma, **attributes) != vma
        ]
        refused = [vma for vma in changing if not can_cut(vma, start, end)]
        if refused and (refused[0] is not changing[0] or refused[0].end < end):
            raise UnmodelledError("part of a range of several VMAs changes")
        return not refused

    def replace(self, start: int, end: int, origin: int, hugetlb: int = 0) -> list[Change]:
        """Unmap a range and put other memory there (mremap, MAP_FIXED); as `protect`."""
        attributes = {"writable": True, "origin": origin, "thp": False, "hugetlb": hugetlb}
        attributes["soft_dirty"] = True
        return self.change(start, end, attributes)

    def cut(self, start: int, end: int) -> list[int]:
        """Give a range another flag for a moment; return the blocks that are split."""
        return [block for vma in self.overlapping(start, end) for block in cuts(vma, start, end)]

    def change(self, start: int, end: int, attributes: dict[str, Any]) -> list[Change]:
        """Change attributes of a range, VMA by VMA."""
        changes: list[Change] = []
        for vma in self.overlapping(start, end):
            changed = replace(vma, **attributes)
            if changed == vma:
                continue
            first, last = max(start, vma.start), min(end, vma.end)
            changes.append(Change(first, last, cuts(vma, start, end)))
            parts = [
                replace(vma, end=first),
                replace(changed, start=first, end=last),
                replace(vma, start=last),
            ]
            self.vmas.remove(vma)
            self.vmas += [part for part in parts if part.start < part.end]
        self.merge(start, end)
        return changes

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """Return the VMAs that a range touches, ascending."""
        return [vma for vma in self.vmas if vma.start < end and start < vma.end]

    def forget_soft_dirty(self) -> None:
        """Take VM_SOFTDIRTY from all VMAs."""
        self.vmas = [replace(vma, soft_dirty=False) for vma in self.vmas]

    def merge(self, start: int, end: int) -> None:
        """Sort, and make one of neighbours with equal attributes, after a change of a range.

        Whether one is soft-dirty says the last part of it that changed.
        """
        merged: list[Vma] = []
        for vma in sorted(self.vmas, key=lambda vma: vma.start):
            if merged and merged[-1].merges(vma):
                last = vma if vma.start < end and start < vma.end else merged[-1]
                anon = merged[-1].anon or vma.anon
                merged[-1] = replace(merged[-1], end=vma.end, anon=anon, soft_dirty=last.soft_dirty)
            else:
                merged.append(vma)
        self.vmas = merged


def can_cut(vma: Vma, start: int, end: int) -> bool:
    """Whether a VMA may be cut at `start` and `end` (`hugetlb_vm_op_split`)."""
    inside = [at for at in (start, end) if vma.start < at < vma.end]
    return not vma.hugetlb or not any(at & ((1 << vma.hugetlb) - 1) for at in inside)


def cuts(vma: Vma, start: int, end: int) -> list[int]:
    """Return the blocks that are split where `start` and `end` cut a VMA, in this order.

    `split_huge_pmd_if_needed`: the whole block must lie in the VMA, which after the
    first cut begins there.
    """
    blocks = []
    for at in (start, end):
        block = at & -BLOCK
        if vma.start < at < vma.end:
            if at != block and not vma.hugetlb and vma.start <= block and block + BLOCK <= vma.end:
                blocks.append(block)
            vma = replace(vma, start=at)
    return blocks
