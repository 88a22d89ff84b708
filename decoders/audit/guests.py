"""Rules about nested guests themselves: idr, references, LPIDs, partition table, vCPUs."""

from collections.abc import Iterator

from nestscope.decoders.audit.finding import Found, rule
from nestscope.decoders.audit.view import StateView, VmView
from nestscope.decoders.state import NestedGuest
from nestscope.decoders.words.pate import PATE_HR, PATE_RPDB

_GUEST = "kernel address of `struct kvm_nested_guest`"
_MAX_L1_LPID = 4095
_RTS_52 = 0x4000_0000_0000_00A0
"""A tree of 52 bits (`radix__get_tree_size`)."""

_PGD_BITS = 13
"""RADIX_PGD_INDEX_SIZE: log2 of the root's entries."""


@rule(
    "I6.orphan",
    "a nested guest that a vCPU uses is in the idr",
    consequence="Entries of the rmap lead to the idr's nested guest of that l1_lpid, or to none: "
    "the shadow leaves of this one outlive the host's mapping (finding 0005).",
    address=_GUEST,
)
def vcpu_uses_idr(state: StateView) -> Iterator[Found]:
    """Every `vcpu->arch.nested` is the nested guest that the idr has under its l1_lpid."""
    for view in state.vms:
        keys = {guest.l1_lpid for guest in view.vm.nested}
        for guest in view.vm.orphans:
            now = "another one" if guest.l1_lpid in keys else "none"
            yield _found(view, guest, f"a vCPU uses {_who(guest)}; the idr has {now} of that name")


@rule(
    "I6.refcnt",
    "the idr holds a reference to its nested guest",
    consequence="The next `kvmhv_put_nested` frees a nested guest that the idr still leads to.",
    address=_GUEST,
)
def idr_holds_reference(state: StateView) -> Iterator[Found]:
    """`refcnt` of a nested guest in the idr is at least 1."""
    for view in state.vms:
        for guest in view.vm.nested:
            if guest.refcnt is not None and guest.refcnt < 1:
                yield _found(view, guest, f"{_who(guest)} is in the idr, refcnt {guest.refcnt}")


@rule(
    "I6.lpid-range",
    "l1_lpid fits the 12 bits of an rmap entry",
    consequence="Entries name another nested guest, and this one's shadow leaves are not found.",
    address=_GUEST,
)
def lpid_fits_entry(state: StateView) -> Iterator[Found]:
    """`l1_lpid` is 0 to 4095."""
    for view in state.vms:
        for guest in view.guests:
            if not 0 <= guest.l1_lpid <= _MAX_L1_LPID:
                yield _found(view, guest, f"{_who(guest)}: no entry can hold this LPID")


@rule(
    "I6.shadow-lpid",
    "shadow_lpid is nobody else's",
    consequence="The TLB cannot tell the two apart: one runs with the other's translations, and "
    "releasing one takes the LPID and the partition table entry away from the other.",
    address=_GUEST,
)
def shadow_lpid_is_unique(state: StateView) -> Iterator[Found]:
    """No other nested guest and no VM of the host has this LPID; 0 is the host itself."""
    owners: dict[int, str] = {0: "the host itself"}
    for view in state.vms:
        if view.vm.lpid is not None:
            owners.setdefault(view.vm.lpid, f"VM {view.vm.kvm:#x}")
    for view in state.vms:
        for guest in view.guests:
            if guest.shadow_lpid is not None:
                yield from _shared(view, guest, "shadow_lpid", guest.shadow_lpid, owners)


@rule(
    "I6.shadow-pgtable",
    "shadow tree is nobody else's",
    consequence="Each sees and changes the other's mappings; releasing one frees the tree that "
    "hardware still walks for the other.",
    address=_GUEST,
)
def shadow_tree_is_unique(state: StateView) -> Iterator[Found]:
    """No other nested guest has this `shadow_pgtable`."""
    roots: dict[int, str] = {}
    for view in state.vms:
        for guest in view.guests:
            if guest.shadow_pgtable is not None:
                yield from _shared(view, guest, "shadow_pgtable", guest.shadow_pgtable, roots)


@rule(
    "I6.partition-table",
    "the partition table leads to the shadow tree",
    consequence="Hardware translates for the nested guest with another tree than the one that "
    "the host unmaps pages in.",
    address=_GUEST,
)
def partition_table_leads_to_tree(state: StateView) -> Iterator[Found]:
    """The host's entry for `shadow_lpid` is what `kvmhv_set_nested_ptbl` writes.

    HR, a tree of 52 bits, the root `shadow_pgtable` with 2**13 entries, and the process
    table. A nested guest that was never entered (`l1_gr_to_hr` 0) may have no entry yet.
    """
    for view in state.vms:
        for guest in view.guests:
            if guest.shadow_pate is None or not guest.shadow_pgtable or not guest.l1_gr_to_hr:
                continue
            dw0, dw1 = guest.shadow_pate
            expected = shadow_dw0(guest.shadow_pgtable)
            if dw0 != expected:
                message = f"dw0 of LPID {guest.shadow_lpid} is {dw0:#018x}, not {expected:#018x}"
                yield _found(view, guest, f"{_who(guest)}: {message}")
            elif guest.process_table is not None and dw1 != guest.process_table:
                message = f"dw1 of LPID {guest.shadow_lpid} is {dw1:#x}, not the process table"
                yield _found(view, guest, f"{_who(guest)}: {message} {guest.process_table:#x}")


def shadow_dw0(root: int) -> int:
    """Return dw0 of the entry for a shadow tree whose root is at kernel address `root`.

    Source: `kvmhv_set_nested_ptbl`; `__pa` drops the linear map's upper bits.
    """
    return PATE_HR | _RTS_52 | root & PATE_RPDB | _PGD_BITS


def _shared(
    view: VmView, guest: NestedGuest, what: str, value: int, known: dict[int, str]
) -> Iterator[Found]:
    if value in known:
        message = f"{what} {value:#x} of {_who(guest)} is also that of {known[value]}"
        yield _found(view, guest, message)
    known.setdefault(value, f"{_who(guest)} of VM {view.vm.kvm:#x}")


def _who(guest: NestedGuest) -> str:
    return f"nested guest {guest.l1_lpid}"


def _found(view: VmView, guest: NestedGuest, message: str) -> Found:
    return Found(message, view.vm.kvm, l1_lpid=guest.l1_lpid, address=guest.address)
