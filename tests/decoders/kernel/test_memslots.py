"""The active memslots of a VM."""

import pytest

from nestscope.decoders.kernel.memslots import KVM_MEMSLOT_INVALID, MemslotReader
from nestscope.decoders.kernel.types import Types, UnknownTypeError
from tests.decoders.kernel.world import BUCKETS, World

PATH = "vms[0].memslots"


def _slot(world: World, number: int, base_gfn: int, npages: int, flags: int = 0) -> int:
    return world.make(
        "kvm_memory_slot",
        {
            "id": number,
            "base_gfn": base_gfn,
            "npages": npages,
            "flags": flags,
            "userspace_addr": 0x1000_0000 + (base_gfn << 16),
            "arch.rmap": 0xC008_0000_0000_0000 + 0x10000 * number,
        },
    )


def _chain(world: World, memslots: int, bucket: int, slots: list[int], idx: int) -> None:
    """Put `slots` on the hash list of `bucket`, by their id_node[idx]."""
    place = world.at("kvm_memslots", memslots, f"id_hash[{bucket}].first")
    for slot in slots:
        node = world.at("kvm_memory_slot", slot, f"id_node[{idx}]")
        world.put(place, node)
        world.put(node, 0, place)
        place = node


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("idx", [0, 1])
def test_valid_slots_by_base_gfn(byteorder: str, idx: int) -> None:
    world = World("little" if byteorder == "little" else "big")
    memslots = world.make("kvm_memslots", {"node_idx": idx})
    high = _slot(world, 2, 0x1000, 16)
    low = _slot(world, 7, 0, 1024, flags=1)
    gone = _slot(world, 3, 0x2000, 8, flags=KVM_MEMSLOT_INVALID)
    other = _slot(world, 5, 0x800, 4)
    _chain(world, memslots, 1, [high, gone, low], idx)
    _chain(world, memslots, BUCKETS - 1, [other], idx)
    # The lists of the inactive set lead elsewhere.
    world.set("kvm_memory_slot", high, f"id_node[{1 - idx}].next", 0xDEAD0000)
    slots, problems = MemslotReader(world.types, world.memory).read(memslots, PATH)
    assert not problems
    assert [(slot.id, slot.base_gfn, slot.npages) for slot in slots] == [
        (7, 0, 1024),
        (5, 0x800, 4),
        (2, 0x1000, 16),
    ]
    assert slots[0].address == low
    assert slots[0].flags == 1
    assert slots[2].userspace_addr == 0x2000_0000
    assert slots[2].rmap == 0xC008_0000_0002_0000


def test_a_cycle_and_a_wild_pointer_end_their_bucket_only() -> None:
    world = World()
    memslots = world.make("kvm_memslots", {"node_idx": 0})
    first, second = _slot(world, 0, 0, 8), _slot(world, 1, 8, 8)
    _chain(world, memslots, 0, [first], 0)
    world.put(world.at("kvm_memory_slot", first, "id_node[0]"), 0xC000_0F00_0000_0000)
    _chain(world, memslots, 3, [second], 0)
    node = world.at("kvm_memory_slot", second, "id_node[0]")
    world.put(node, node)
    slots, problems = MemslotReader(world.types, world.memory).read(memslots, PATH)
    assert [slot.id for slot in slots] == [0, 1]
    assert len(problems) == 2
    assert problems[1].address == second
    assert all(problem.path == PATH for problem in problems)


def test_a_wild_set_is_a_problem() -> None:
    world = World()
    reader = MemslotReader(world.types, world.memory)
    slots, problems = reader.read(0xC000_0F00_0000_0000, PATH)
    assert slots == []
    assert problems[0].address == 0xC000_0F00_0000_0000
    memslots = world.make("kvm_memslots", {"node_idx": 2})
    assert "node_idx is 2" in reader.read(memslots, PATH)[1][0].message


def test_without_types_there_is_no_reader() -> None:
    with pytest.raises(UnknownTypeError, match="kvm_memslots"):
        MemslotReader(Types([]), World().memory)
