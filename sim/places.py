"""Places in the kernel's code where a path can be held, and the model's sections behind them.

A place is written `FUNCTION` (its entry) or `FUNCTION:CALLEE` (where it is about to call
CALLEE), with `[N]` for the N-th time. So it is the same in every build that has the
function. None of those below is inside a critical section: what comes next is one.
"""

import re
from typing import NamedTuple, Self

from nestscope.sim.steps import Mutex, Point

STAY = "-"
"""In the place of a place: the operation does not move when its turn comes."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PLACE = re.compile(rf"({_NAME})(?::({_NAME}))?(?:\[([1-9][0-9]{{0,3}})\])?")


class Place(NamedTuple):
    """Entry of `function`, or its call of `callee`; the `times`-th time that it is reached.

    Times are counted from where the operation stands when its turn comes.
    """

    function: str
    callee: str | None = None
    times: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a place.

        Raises:
            ValueError: if it is none.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is not FUNCTION, FUNCTION:CALLEE or one with [N]")
        function, callee, times = found.groups()
        return cls(function, callee, int(times or 1))

    def __str__(self) -> str:
        callee = f":{self.callee}" if self.callee else ""
        return f"{self.function}{callee}" + (f"[{self.times}]" if self.times > 1 else "")


Turn = Place | None
"""Where an operation goes in one of its turns; None: it stays where it is."""

TLB_LOCK = "tlb_lock"
"""Stands for every `struct mutex` of a nested guest, in `PLACES`."""

PLACES: dict[str, tuple[str, ...]] = {
    TLB_LOCK: (
        "kvmhv_nested_page_fault:mutex_lock",
        "kvmhv_emulate_tlbie_lpid:mutex_lock",
        "kvmhv_emulate_tlbie_tlb_addr:mutex_lock",
    ),
    "walk the guest's tree": ("kvmhv_nested_page_fault:kvmppc_mmu_walk_radix_tree",),
    "find the host leaf": ("kvmhv_nested_page_fault:_raw_spin_lock",),
    "set R and C": (
        "kvmhv_nested_page_fault:_raw_spin_lock",
        "kvmppc_book3s_radix_page_fault:_raw_spin_lock",
    ),
    "get the host page": ("kvmppc_book3s_instantiate_page:__gfn_to_pfn_memslot",),
    "find the host page": ("kvmppc_book3s_instantiate_page:_raw_spin_lock",),
    "set the leaf": ("kvmppc_create_pte:_raw_spin_lock",),
    "invalidate the shadow leaf": ("kvmhv_invalidate_shadow_pte",),
    "invalidate a shadow leaf": ("kvmhv_invalidate_shadow_pte",),
    "the guest faults": ("kvmppc_book3s_radix_page_fault",),
    "find the nested guest": ("kvmhv_get_nested",),
    "put the nested guest": ("kvmhv_put_nested",),
    "find the next nested guest": ("kvmhv_do_nested_tlbie:_raw_spin_lock",),
    "empty the shadow tree": ("kvmhv_emulate_tlbie_lpid:_raw_spin_lock",),
    "read the partition table entry": ("kvmhv_emulate_tlbie_lpid:kvmhv_update_ptbl_cache",),
    "remove the nested guest": ("kvmhv_emulate_tlbie_lpid:_raw_spin_lock",),
    "release the nested guest": ("kvmhv_emulate_tlbie_lpid:kvmhv_release_nested",),
    "run the nested guest": ("kvmhv_enter_nested_guest:kvmhv_run_single_vcpu",),
    "clear C": ("kvmppc_hv_get_dirty_log_radix:_raw_spin_lock",),
    "flush the slot": (
        "kvmppc_core_flush_memslot_hv",
        "kvmppc_core_commit_memory_region_hv",
    ),
    "end the invalidation": ("kvm_mmu_notifier_invalidate_range_end",),
}
"""For each section of the model (`sim.steps`) the places just before it.

Functions that the compiler inlines are named by the one that they end up in
(`kvmhv_flush_nested` in `kvmhv_emulate_tlbie_lpid`, `__kvmhv_nested_page_fault` in
`kvmhv_nested_page_fault`). A section that is not here has no place that is always passed.
"""


def section_of(point: Point) -> str:
    """Return the name under which `PLACES` has a point of a path."""
    return point if isinstance(point, str) else TLB_LOCK if isinstance(point, Mutex) else ""


def is_at(point: Point, place: Place) -> bool:
    """Return whether a path that has come to `point` is at a place, whatever the time."""
    return str(place._replace(times=1)) in PLACES.get(section_of(point), ())


def known_places() -> list[str]:
    """Return every place that the model knows, sorted."""
    return sorted({place for places in PLACES.values() for place in places})
