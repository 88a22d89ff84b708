"""Rules about shadow leaves: what a nested guest can reach, and whether the host knows."""

from collections.abc import Iterator

import numpy as np

from nestscope.decoders.audit.finding import WARNING, Found, rule
from nestscope.decoders.audit.view import KERNEL_RPN, Flags, StateView, VmView, bytes_of
from nestscope.decoders.words.pte import (
    PTE_ATT,
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
)

_RWX = PTE_EAA_READ | PTE_EAA_WRITE | PTE_EAA_EXECUTE
_HOST_PAGE = "host real address of the page that the shadow leaf maps"


@rule(
    "I1",
    "shadow leaf has an rmap entry",
    consequence="When the host takes the page away, `kvmhv_remove_nest_rmap_range` does not "
    "find the leaf: the nested guest keeps access to a page that is somebody else's.",
    address=_HOST_PAGE,
)
def leaf_has_entry(state: StateView) -> Iterator[Found]:
    """Every shadow leaf has an entry `(l1_lpid, n_gpa)` in some chain of its VM."""
    for view in state.vms:
        if not view.rmap_gaps:
            yield from _leaves(view, ~view.named, "no chain of the VM has an entry for it")


@rule(
    "I2",
    "shadow leaf maps the host leaf's page",
    consequence="`kvmhv_remove_nest_rmap` compares the page before it clears a leaf, so "
    "unmapping the host leaf leaves the shadow leaf behind, and its entry is gone then.",
    address=_HOST_PAGE,
)
def leaf_maps_host_page(state: StateView) -> Iterator[Found]:
    """The host leaf of the entry's gfn is there and covers the shadow leaf's page.

    One matching entry is enough. The comparison is the kernel's own.
    """
    for view in state.vms:
        if view.rmap_gaps or view.host_gaps:
            continue
        broken = view.named & ~view.maps_host_page
        hosted = view.leaves_with(view.pairs.host != 0)
        yield from _leaves(view, broken & ~hosted, "the host has unmapped the guest page")
        yield from _leaves(view, broken & hosted, "the host maps the guest page elsewhere")


@rule(
    "I3",
    "shadow rights within the host leaf's",
    consequence="The nested guest does what the host forbids its guest: a write to a page "
    "that is shared copy-on-write changes it for everybody.",
    address=_HOST_PAGE,
)
def leaf_rights_within_host(state: StateView) -> Iterator[Found]:
    """Read, write and execute of a shadow leaf are all in its host leaf."""
    for view in state.vms:
        yield from _leaves(view, _exceeds(view, _RWX), "it permits what the host leaf does not")


@rule(
    "I4",
    "shadow R and C within the host leaf's",
    consequence="A page that the nested guest has changed is missing from the next dirty log "
    "(`kvm_radix_test_clear_dirty` looks at the host leaf), or a page in use looks idle.",
    address=_HOST_PAGE,
)
def leaf_rc_within_host(state: StateView) -> Iterator[Found]:
    """C of a shadow leaf implies C of its host leaf, and R implies R.

    Where the hardware sets R and C itself (QEMU up to 8.1), it does so in the shadow leaf
    only, and the host cannot keep up: there the rule is not checked. Where it is not
    known, what it finds is only worth knowing.
    """
    for view in state.vms:
        broken = _exceeds(view, PTE_R | PTE_C)
        yield from _leaves(view, broken, "it has R or C where the host leaf has not")


@rule(
    "shadow.freed-page",
    "shadow leaf maps a page that the host maps for the VM",
    consequence="The page may have gone back to the host and be somebody else's: the nested "
    "guest reads or changes memory that is not its guest's.",
    address=_HOST_PAGE,
)
def page_is_the_vms(state: StateView) -> Iterator[Found]:
    """Some host leaf of the VM maps the host page that a shadow leaf begins with.

    Whatever the rmap says: I2 asks for the leaf that an entry leads to.
    """
    for view in state.vms:
        if not view.host_gaps:
            rest = np.flatnonzero(~view.maps_host_page)
            if not len(rest):
                continue
            broken = np.zeros(len(view.leaves.word), np.bool_)
            broken[rest] = ~_mapped_by_host(view, rest)
            yield from _leaves(view, broken, "no host leaf of the VM maps this page")


@rule(
    "shadow.exceeds-host-leaf",
    "shadow leaf is no larger than its host leaf",
    consequence="The nested guest reaches host pages behind the end of the host leaf, which "
    "may be anybody's.",
    address=_HOST_PAGE,
)
def leaf_within_host_leaf(state: StateView) -> Iterator[Found]:
    """A shadow leaf maps no more bytes than the host leaf whose page it begins with.

    `kvmhv_nested_page_fault` takes the smaller of the guest's and the host's page size.
    """
    for view in state.vms:
        if view.rmap_gaps or view.host_gaps:
            continue
        pairs = view.pairs
        fits = pairs.host_shift >= view.leaves.shift[pairs.leaf]
        broken = view.maps_host_page & ~view.leaves_with(pairs.same_page & fits)
        yield from _leaves(view, broken, "its page is larger than that of the host leaf")


@rule(
    "shadow.attributes",
    "shadow leaf has its host leaf's storage attributes",
    severity=WARNING,
    consequence="Two mappings of one page differ in caching or ordering; the ISA leaves open "
    "what such accesses see.",
    address=_HOST_PAGE,
)
def attributes_are_the_hosts(state: StateView) -> Iterator[Found]:
    """ATT of a shadow leaf is that of its host leaf.

    `kvmhv_nested_page_fault` makes the shadow PTE from the host PTE, ATT included.
    """
    for view in state.vms:
        if view.rmap_gaps or view.host_gaps:
            continue
        pairs = view.pairs
        same = (view.leaves.pte[pairs.leaf] ^ pairs.host) & np.uint64(PTE_ATT) == 0
        broken = view.maps_host_page & ~view.leaves_with(pairs.same_page & same)
        yield from _leaves(view, broken, "its ATT is not that of the host leaf")


def _mapped_by_host(view: VmView, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Flags:
    """Say of some shadow leaves whether any host leaf maps the page that they begin with.

    The few pages are sorted, not the many host leaves.
    """
    pages = view.leaves.pte[places] & view.frame_mask(np.zeros(len(places), np.uint64))
    order = np.argsort(pages)
    host = view.vm.host_leaves.columns
    shift = host["shift"].astype(np.uint64)
    start = host["pte"] & view.frame_mask(shift)
    first = np.searchsorted(pages[order], start, side="left")
    last = np.searchsorted(pages[order], start + bytes_of(shift), side="left")
    # +1 where a host leaf begins, -1 behind its end: a sum above 0 is inside of one.
    steps = np.zeros(len(places) + 1, np.int64)
    np.add.at(steps, first, 1)
    np.add.at(steps, last, -1)
    mapped = np.zeros(len(places), np.bool_)
    mapped[order] = np.cumsum(steps[:-1]) > 0
    return mapped


def _exceeds(view: VmView, bits: int) -> Flags:
    """Return the leaves with a bit of `bits` that none of their host leaves has.

    Several host leaves are possible: a stale entry whose page has become the same.
    """
    pairs = view.pairs
    if view.rmap_gaps or view.host_gaps:
        return np.zeros(len(view.leaves.word), np.bool_)
    missing = view.leaves.pte[pairs.leaf] & ~pairs.host & np.uint64(bits)
    within = view.leaves_with(pairs.same_page & (missing == 0))
    return view.maps_host_page & ~within


def _leaves(view: VmView, broken: Flags, why: str) -> Iterator[Found]:
    """Yield each shadow leaf that is `broken`, with the chain that it belongs to."""
    leaves, pairs = view.leaves, view.pairs
    for at in np.flatnonzero(broken).tolist():
        guest = view.guests[leaves.guest[at]]
        n_gpa, pte = int(leaves.address[at]), int(leaves.pte[at])
        # Pairs are ordered by leaf; the first one says where the leaf belongs.
        first = int(np.searchsorted(pairs.leaf, at))
        host, slot, gfn = "none", None, None
        if first < len(pairs.leaf) and pairs.leaf[first] == at:
            entry = pairs.entry[first]
            slot = view.vm.memslots[view.entries.slot[entry]].id
            gfn = int(view.entries.gfn[entry])
            host = f"{int(pairs.host[first]):#018x}" if pairs.host[first] else "no leaf"
        where = "" if gfn is None else f" (gfn {gfn:#x}, host {host})"
        yield Found(
            f"nested guest {guest.l1_lpid} maps {n_gpa:#x} with {pte:#018x}: {why}{where}",
            view.vm.kvm,
            slot,
            gfn,
            guest.l1_lpid,
            n_gpa,
            pte & KERNEL_RPN & ~((1 << view.page_shift) - 1),
        )
