"""Rules about host leaves, and about chains as seen from them."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from nestscope.decoders.audit.chains import found
from nestscope.decoders.audit.finding import WARNING, Found, rule
from nestscope.decoders.audit.view import Flags, Places, StateView, VmView, bytes_of
from nestscope.decoders.state import Columns, Memslot
from nestscope.decoders.words.pte import PTE_RESERVED, PTE_RPN

_HOST_PAGE = "host real address of the page that the leaf maps"
_WORD = "kernel address of the gfn's rmap word"
U64 = (1 << 64) - 1
KVM_MEM_LOG_DIRTY_PAGES = 1
"""Flag of a memslot (include/uapi/linux/kvm.h)."""


@rule(
    "host.outside-memslot",
    "host leaf is contained in its memslot",
    consequence="The guest reaches host memory that its VMM has not given it, and removing the "
    "memslot unmaps by gfn, so the part outside stays (finding 0003).",
    address=_HOST_PAGE,
)
def leaf_within_memslot(state: StateView) -> Iterator[Found]:
    """All bytes of a host leaf are in one memslot.

    A memslot that is being deleted or moved (KVM_MEMSLOT_INVALID) is not in the State.
    """
    for view in state.vms:
        if view.host_gaps or view.gap_slots & {-1}:
            continue
        slots = sorted(map(partial(_bounds, view), view.vm.memslots))
        base = np.array([first for first, _ in slots], np.uint64)
        # Damaged memslots may overlap: a leaf is in one of those before it if it ends by
        # the farthest of their ends.
        end = np.maximum.accumulate(np.array([end for _, end in slots], np.uint64))
        address = np.ascontiguousarray(view.vm.host_leaves.columns["address"])
        at = np.searchsorted(base, address, side="right") - 1
        inside = at >= 0
        if slots:
            last = address + bytes_of(view.vm.host_leaves.columns["shift"])
            inside &= (last <= end[np.maximum(at, 0)]) & (last > address)
        yield from _leaves(view, ~inside, "it is not contained in a memslot")


@rule(
    "host.huge-while-logging",
    "no huge host leaf while dirty pages are logged",
    severity=WARNING,
    consequence="Dirty pages are found by base page: writes to the rest of the huge page are "
    "missing from the dirty log (the defect of 5af3e9d06d83).",
    address=_HOST_PAGE,
)
def logging_slot_has_base_pages(state: StateView) -> Iterator[Found]:
    """In a memslot with KVM_MEM_LOG_DIRTY_PAGES every host leaf is a base page.

    `kvmppc_book3s_instantiate_page` makes no other there, and setting the flag flushes.
    """
    for view in state.vms:
        huge = view.vm.host_leaves.columns["shift"] > view.page_shift
        logging = [s for s in view.vm.memslots if (s.flags or 0) & KVM_MEM_LOG_DIRTY_PAGES]
        if not logging or not huge.any():
            continue
        bounds = np.array(sorted(_bounds(view, slot) for slot in logging), np.uint64)
        # Damaged memslots may overlap: what counts is the farthest end of those before.
        ends = np.maximum.accumulate(bounds[:, 1])
        address = np.ascontiguousarray(view.vm.host_leaves.columns["address"])
        at = np.searchsorted(bounds[:, 0], address, side="right") - 1
        inside = (at >= 0) & (address < ends[np.maximum(at, 0)])
        yield from _leaves(view, inside & huge, "it is huge")


@rule(
    "rmap.not-at-leaf-start",
    "chain is under the first gfn of its host leaf",
    severity=WARNING,
    consequence="`kvmhv_update_nest_rmap_rc_list` reads the chain of the leaf's first gfn only: "
    "R and C of the shadow leaves are not cleared, so a page is missing from a dirty log.",
    address=_WORD,
)
def chain_at_leaf_start(state: StateView) -> Iterator[Found]:
    """A gfn with entries is the one that its host leaf begins with.

    `kvmhv_nested_page_fault` aligns the gfn to the host leaf.
    """
    for view, number, gfns, at in _chains(state):
        host = view.vm.host_leaves.columns
        if len(host):
            start = host["address"][np.maximum(at, 0)] >> np.uint64(view.page_shift)
            for which in np.flatnonzero((at >= 0) & (start != gfns)).tolist():
                message = f"its host leaf begins at gfn {int(start[which]):#x}"
                yield found(view, number, which, message)


@rule(
    "rmap.no-host-leaf",
    "chain is under a gfn that the host maps",
    severity=WARNING,
    consequence="`kvm_unmap_radix` skips a gfn without a host leaf: the entries stay until the "
    "memslot goes, and shadow leaves that they name are never unmapped.",
    address=_WORD,
)
def chain_has_host_leaf(state: StateView) -> Iterator[Found]:
    """A gfn with entries is covered by a host leaf; unmapping it would have emptied the chain."""
    for view, number, _, at in _chains(state):
        for which in np.flatnonzero(at < 0).tolist():
            yield found(view, number, which, "there are entries, but no host leaf")


@rule(
    "tree.reserved-bits",
    "reserved bits of a leaf are 0",
    consequence="The ISA leaves open what hardware does with such a leaf.",
    address=_HOST_PAGE,
)
def leaf_has_no_reserved_bits(state: StateView) -> Iterator[Found]:
    """ISA bits 3 to 6 and 57 of every host leaf and shadow leaf are 0."""
    for view in state.vms:
        for columns, lpid in _trees(view):
            broken = columns["pte"] & np.uint64(PTE_RESERVED) != 0
            yield from _rows(view, columns[broken], "it has reserved bits", lpid)


@rule(
    "tree.misaligned",
    "a leaf's page is aligned to its size",
    consequence="Hardware ignores the low bits of the page number or refuses the leaf; the "
    "kernel works with another page than hardware.",
    address=_HOST_PAGE,
)
def leaf_page_is_aligned(state: StateView) -> Iterator[Found]:
    """RPN of every host leaf and shadow leaf has no bits below the size of the leaf."""
    for view in state.vms:
        for columns, lpid in _trees(view):
            low = bytes_of(columns["shift"]) - np.uint64(1)
            broken = columns["pte"] & np.uint64(PTE_RPN) & low != 0
            yield from _rows(view, columns[broken], "its page is not aligned to its size", lpid)


def _chains(state: StateView) -> Iterator[tuple[VmView, int, Columns, Places]]:
    """Yield each memslot's place, its gfns with entries, and the host leaf that covers each."""
    for view in state.vms:
        if view.host_gaps:
            continue
        for number, slot in enumerate(view.vm.memslots):
            gfns = slot.rmap.index["gfn"]
            yield view, number, gfns, view.host_at(gfns)


def _trees(view: VmView) -> Iterator[tuple[Columns, int | None]]:
    """Yield the leaves of the host tree (None) and of each nested guest (its l1_lpid)."""
    yield view.vm.host_leaves.columns, None
    for guest in view.guests:
        yield guest.leaves.columns, guest.l1_lpid


def _leaves(view: VmView, broken: Flags, why: str) -> Iterator[Found]:
    yield from _rows(view, view.vm.host_leaves.columns[broken], why, None)


def _rows(view: VmView, rows: Columns, why: str, lpid: int | None) -> Iterator[Found]:
    """Yield leaves of the host tree, or of nested guest `lpid`."""
    for address, shift, pte in rows.tolist():
        page = pte & PTE_RPN & ~((1 << view.page_shift) - 1)
        size = f"2^{shift} bytes with {pte:#018x}"
        if lpid is None:
            text = f"the host maps guest address {address:#x}, {size}: {why}"
            gfn = address >> view.page_shift
            yield Found(text, view.vm.kvm, _slot_id(view, gfn), gfn, address=page)
        else:
            text = f"nested guest {lpid} maps {address:#x}, {size}: {why}"
            yield Found(text, view.vm.kvm, l1_lpid=lpid, n_gpa=address, address=page)


def _bounds(view: VmView, slot: Memslot) -> tuple[int, int]:
    """Return the first guest address of a memslot and the one behind it, as far as 64 bits go."""
    first = slot.base_gfn << view.page_shift
    end = slot.base_gfn + slot.npages << view.page_shift
    return min(first, U64), min(end, U64)


def _slot_id(view: VmView, gfn: int) -> int | None:
    """Return the id of the memslot that holds a gfn."""
    held = (s for s in view.vm.memslots if s.base_gfn <= gfn < s.base_gfn + s.npages)
    slot = next(held, None)
    return None if slot is None else slot.id
