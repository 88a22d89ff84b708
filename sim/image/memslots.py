"""The memslots of a VM, in the form that the kernel's types have."""

from collections.abc import Sequence

from nestscope.decoders.state import Memslot
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.structures import Structures

_GOLDEN_RATIO_32 = 0x61C8_8647
_SLOT = "kvm_memory_slot"
_SETS = "kvm_memslots"
ACTIVE = 1
"""Which of the two sets, and of a slot's two nodes, is active."""


def build_memslots(out: Structures, kvm: int, slots: Sequence[Memslot]) -> None:
    """Lay out `slots`, whose rmap arrays exist, and link them to the `struct kvm` at `kvm`."""
    if out.types.has(_SETS, "id_hash"):
        _build_sets(out, kvm, slots)
    elif out.types.has(_SETS, "used_slots"):
        _build_array(out, kvm, slots)
    else:
        raise ImageError("these types keep memslots in a form that is not known")


def _members(slot: Memslot) -> dict[str, int | None]:
    return {
        "id": slot.id,
        "base_gfn": slot.base_gfn,
        "npages": slot.npages,
        "userspace_addr": slot.userspace_addr,
        "flags": slot.flags,
        "arch.rmap": slot.rmap_array,
    }


def _build_sets(out: Structures, kvm: int, slots: Sequence[Memslot]) -> None:
    """Two sets that share the slots, as after a change has been completed.

    Since a54d806688fe ("KVM: Keep memslots in tree-based structures instead of
    array-based ones").
    """
    places = [out.make(_SLOT, _members(slot)) for slot in slots]
    by_gfn = [
        place for _, place in sorted(zip(slots, places, strict=True), key=lambda p: p[0].base_gfn)
    ]
    bucket_member = out.types.member(_SETS, "id_hash")
    buckets = bucket_member.size // 8
    for idx in (0, 1):
        memslots = _set_address(out, kvm, idx)
        out.fill(_SETS, memslots, {"node_idx": idx})
        for bucket in range(buckets):
            nodes = [
                out.at(_SLOT, place, f"id_node[{idx}]")
                for slot, place in zip(slots, places, strict=True)
                if hash_bucket(slot.id, buckets) == bucket
            ]
            out.hash_list(memslots + bucket_member.offset + 8 * bucket, nodes)
        if out.types.has(_SETS, "gfn_tree") and out.types.has(_SLOT, "gfn_node"):
            tree = [out.at(_SLOT, place, f"gfn_node[{idx}]") for place in by_gfn]
            out.red_black_tree(out.at(_SETS, memslots, "gfn_tree"), tree)
        if idx == ACTIVE:
            out.fill("kvm", kvm, {"memslots[0]": memslots})


def _set_address(out: Structures, kvm: int, idx: int) -> int:
    """Return where one of the two sets is: in `struct kvm`, as far as the types tell."""
    if not out.types.has("kvm", "__memslots"):
        return out.make(_SETS, {})  # a stored profile has only the members that are read
    # BTF flattens __memslots[as][2] into one dimension, so the index is not in a path.
    return out.at("kvm", kvm, "__memslots") + idx * out.types.struct(_SETS).size


def hash_bucket(slot_id: int, buckets: int) -> int:
    """Return the bucket of `id_hash` for a slot: `hash_min()` of a 16-bit number."""
    bits = buckets.bit_length() - 1
    return (slot_id * _GOLDEN_RATIO_32 & 0xFFFF_FFFF) >> (32 - bits)


def _build_array(out: Structures, kvm: int, slots: Sequence[Memslot]) -> None:
    """An array sorted by base_gfn, highest first; `used_slots` says how many there are.

    Until a54d806688fe. Since 36947254e5f9 ("KVM: Dynamically size memslot array
    based on number of used slots") the array has no fixed size.
    """
    slots = sorted(slots, key=lambda slot: slot.base_gfn, reverse=True)
    size = out.types.struct(_SLOT).size
    memslots = out.make(_SETS, {"used_slots": len(slots)}, extra=size * len(slots))
    first = out.at(_SETS, memslots, "memslots")
    for number, slot in enumerate(slots):
        out.fill(_SLOT, first + number * size, _members(slot))
    if out.types.has(_SETS, "id_to_index"):
        ids = out.types.member(_SETS, "id_to_index").dims[0]
        indices = {slot.id: number for number, slot in enumerate(slots)}
        for slot_id in range(ids):
            out.fill(_SETS, memslots, {f"id_to_index[{slot_id}]": indices.get(slot_id, -1)})
    out.fill("kvm", kvm, {"memslots[0]": memslots})
