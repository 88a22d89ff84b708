"""Several members of a struct with one read."""

import pytest

from nestscope.decoders.kernel.record import LayoutError, Record
from nestscope.decoders.kernel.types import UnknownTypeError
from tests.decoders.kernel.world import World


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_values_come_in_the_order_of_the_paths(byteorder: str) -> None:
    world = World("little" if byteorder == "little" else "big")
    slot = world.make("kvm_memory_slot", {"id": -3, "npages": 2**63 + 1, "flags": 7})
    record = Record(
        world.types, "kvm_memory_slot", ["flags", None, "id", "npages"], world.byteorder
    )
    assert record.read(world.memory, slot) == [7, None, -3, 2**63 + 1]
    assert record.read_numbers(world.memory, slot) == [7, -3, 2**63 + 1]


def test_only_the_bytes_between_the_members_are_read() -> None:
    world = World()
    record = Record(world.types, "kvm_memory_slot", ["flags", "id"], world.byteorder)
    assert (record.start, record.length) == (64, 8)


def test_what_is_no_number_is_refused() -> None:
    world = World()
    for path in ("arch", "id_node", "id_node[0]"):
        with pytest.raises(LayoutError):
            Record(world.types, "kvm_memory_slot", [path], world.byteorder)
    with pytest.raises(LayoutError, match="overlap"):
        Record(world.types, "kvm_memory_slot", ["id", "id"], world.byteorder)
    with pytest.raises(LayoutError, match="no member"):
        Record(world.types, "kvm_memory_slot", [None], world.byteorder)
    with pytest.raises(UnknownTypeError):
        Record(world.types, "kvm_memory_slot", ["absent"], world.byteorder)
