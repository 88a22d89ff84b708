"""What the processors use, laid out and read back: vCPUs, orphans, partition table entries."""

from dataclasses import replace

import pytest

from nestscope.decoders.audit.guests import shadow_dw0
from nestscope.decoders.kernel.symbols import SymbolTable
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.read_state import read_state
from nestscope.decoders.state import KernelInfo, Leaves, NestedGuest, Running, State, Vm
from nestscope.sim.image.build import Image, build_image
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.profiles import PROFILES, profile_types
from tests.sim.image.states import LEAF, SOURCE

WILD = 0xC000_7FFF_0000_0000


def guest(lpid: int, address: int, **changes: object) -> NestedGuest:
    leaves = Leaves.build([(0x1_0000, 16, LEAF | 0x5_0000)])
    known = NestedGuest(lpid, lpid + 10, 1, 0x111, 0x2000, 1, leaves, address)
    return replace(known, **changes)  # type: ignore[arg-type]


def state(*running: Running, orphans: tuple[NestedGuest, ...] = (), **changes: object) -> State:
    nested = (guest(1, 0x100), guest(2, 0x200, **changes))
    vm = Vm(1, 1, True, False, 0x40000, (), Leaves(), nested, running, orphans)
    return State(SOURCE, KernelInfo("x", 16), (vm,))


def image_of(known: State, family: str = "6.12-like") -> Image:
    return build_image(known, profile_types(family))


def read(image: Image) -> Vm:
    (vm,) = read_state(image.memory, image.kernel, SOURCE).vms
    return vm


@pytest.mark.parametrize("family", sorted(PROFILES))
def test_vcpus_lead_to_their_nested_guests(family: str) -> None:
    vm = read(image_of(state(Running(0, 0x200), Running(5, 0x100), Running(6, 0x200)), family))
    places = {guest.l1_lpid: guest.address for guest in vm.nested}
    assert vm.running == (
        Running(0, places[2] or 0),
        Running(5, places[1] or 0),
        Running(6, places[2] or 0),
    )
    assert vm.orphans == ()


@pytest.mark.parametrize("family", sorted(PROFILES))
def test_a_nested_guest_that_only_a_vcpu_has_is_an_orphan_with_its_leaves(family: str) -> None:
    lost = guest(2, 0x300, shadow_lpid=77)
    vm = read(image_of(state(Running(0, 0x300), Running(1, 0x300), orphans=(lost,)), family))
    (orphan,) = vm.orphans
    assert (orphan.l1_lpid, orphan.shadow_lpid, orphan.process_table) == (2, 77, 0x2000)
    assert list(orphan.leaves) == list(lost.leaves)
    assert orphan.address not in {guest.address for guest in vm.nested}
    assert [each.nested for each in vm.running or ()] == [orphan.address] * 2


def test_partition_table_entries_are_those_of_the_shadow_lpid() -> None:
    other = (0x8000_0000_1234_5605, 0x99)
    vm = read(image_of(state(shadow_pate=other)))
    first, second = vm.nested
    assert first.shadow_pate == (shadow_dw0(first.shadow_pgtable or 0), 0x2000)
    assert second.shadow_pate == other


def test_without_the_tables_symbol_nothing_is_known_of_it() -> None:
    image = image_of(state())
    kernel = replace(image.kernel, symbols=SymbolTable.of_symbols([]))
    known = read_state(image.memory, kernel, SOURCE)
    assert [guest.shadow_pate for guest in known.vms[0].nested] == [None, None]
    assert known.problems == ()


class WithoutVcpus(Types):
    """Types of before vCPUs were read."""

    def __init__(self, types: Types) -> None:
        super().__init__([Hiding(types)])


class Hiding:
    def __init__(self, types: Types) -> None:
        self.types = types

    def find(self, name: str):  # type: ignore[no-untyped-def]
        return None if name == "kvm_vcpu" else self.types.struct(name)


def test_types_without_vcpus_leave_them_unknown() -> None:
    image = image_of(state(Running(0, 0x100)))
    kernel = replace(image.kernel, types=WithoutVcpus(image.types))
    (vm,) = read_state(image.memory, kernel, SOURCE).vms
    assert vm.running is None
    assert vm.orphans == ()


def test_a_vcpu_whose_nested_guest_cannot_be_read_is_a_problem() -> None:
    image = image_of(state(Running(4, 0x100)))
    (vm,) = image.state.vms
    (vcpu,) = vm.running or ()
    # The pointer is where the address of nested guest 1 stands behind a vcpu_id of 4.
    types = image.types
    at = types.offset("kvm_vcpu", "arch.nested")
    for _, data in image.memory.regions:
        found = data.tobytes().find(vcpu.nested.to_bytes(8, "little"))
        while found >= 0:
            number = found - at + types.offset("kvm_vcpu", "vcpu_id")
            if number >= 0 and data[number] == 4:
                data[found : found + 8] = list(WILD.to_bytes(8, "little"))
            found = data.tobytes().find(vcpu.nested.to_bytes(8, "little"), found + 1)
    known = read_state(image.memory, image.kernel, SOURCE)
    assert known.vms[0].running == (Running(4, WILD),)
    assert known.vms[0].orphans == ()
    assert [(each.path, each.address) for each in known.problems] == [("vms[0].orphans[0]", WILD)]


def test_a_vcpu_in_a_guest_that_the_state_does_not_have_cannot_be_laid_out() -> None:
    with pytest.raises(ImageError, match="does not have"):
        image_of(state(Running(0, 0x999)))


def test_an_lpid_beyond_the_table_cannot_be_laid_out() -> None:
    with pytest.raises(ImageError, match="shadow_lpid 4096"):
        image_of(state(shadow_lpid=4096))
