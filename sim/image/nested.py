"""The nested guests of a VM: `struct kvm_nested_guest`, and what they are found by."""

from collections.abc import Mapping, Sequence

from nestscope.decoders.state import NestedGuest
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.structures import Structures

_IDR = "arch.kvm_nested_guest_idr"
_ARRAY = "arch.nested_guests"
_XA_NODE_TAG = 2


def build_guest(out: Structures, kvm: int, guest: NestedGuest) -> int:
    """Lay out a nested guest whose shadow tree exists; return its address."""
    place = out.make(
        "kvm_nested_guest",
        {
            "l1_host": kvm,
            "l1_lpid": guest.l1_lpid,
            "shadow_lpid": guest.shadow_lpid,
            "shadow_pgtable": guest.shadow_pgtable,
            "l1_gr_to_hr": guest.l1_gr_to_hr,
            "process_table": guest.process_table,
            "refcnt": guest.refcnt,
        },
    )
    out.fill_present("kvm_nested_guest", place, {"radix": 1})
    return place


def link_guests(out: Structures, kvm: int, guests: Sequence[tuple[int, int]]) -> None:
    """Link nested guests, `(l1_lpid, address)`, to the `struct kvm` at `kvm`.

    Raises:
        ImageError: if two have one l1_lpid, or these types keep them in an unknown form.
    """
    places: dict[int, int] = {}
    for l1_lpid, place in guests:
        if l1_lpid in places:
            raise ImageError(f"two nested guests have l1_lpid {l1_lpid}")
        places[l1_lpid] = place
    if out.types.has("kvm", _IDR):
        head = build_xarray(out, places)
        out.fill("kvm", kvm, {f"{_IDR}.idr_rt.xa_head": head})
    elif out.types.has("kvm", _ARRAY):
        # Until the IDR of nested guests, an array by l1_lpid.
        out.fill("kvm", kvm, {f"{_ARRAY}[{lpid}]": place for lpid, place in places.items()})
        out.fill_present("kvm", kvm, {"arch.max_nested_lpid": max(places, default=0)})
    else:
        raise ImageError("these types keep nested guests in a form that is not known")


def build_xarray(out: Structures, pointers: Mapping[int, int]) -> int:
    """Lay out the nodes of an XArray of pointers by index; return its head entry.

    As low as possible: without a node if index 0 is the only one.
    """
    if not pointers:
        return 0
    slots = out.types.member("xa_node", "slots").dims[0]
    chunk_shift = slots.bit_length() - 1
    entries = dict(pointers)
    shift = 0
    while max(entries):
        parents: dict[int, int] = {}
        for number in sorted({index >> chunk_shift for index in entries}):
            children = {i: e for i, e in entries.items() if i >> chunk_shift == number}
            parents[number] = _xa_node(out, children, slots, shift) | _XA_NODE_TAG
        entries = parents
        shift += chunk_shift
    return entries[0]


def _xa_node(out: Structures, children: Mapping[int, int], slots: int, shift: int) -> int:
    """Lay out one `struct xa_node` and make it the parent of the nodes under it."""
    values = {f"slots[{index % slots}]": entry for index, entry in children.items()}
    node = out.make("xa_node", {"shift": shift} | values)
    out.fill_present("xa_node", node, {"count": len(children)})
    if shift:
        for index, entry in children.items():
            child = entry & ~_XA_NODE_TAG
            out.fill_present("xa_node", child, {"parent": node, "offset": index % slots})
    return node
