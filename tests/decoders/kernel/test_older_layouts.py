"""Kernels that keep memslots and nested guests in arrays: facts, and what is wrong with them."""

from dataclasses import replace
from functools import cache

import pytest

from nestscope.decoders.kernel.memslots import KVM_MEMSLOT_INVALID
from nestscope.decoders.read_state import read_state
from nestscope.decoders.state import State
from nestscope.sim.image.build import Image, build_image
from nestscope.sim.image.memory import Region, SparseMemory
from nestscope.sim.image.profiles import profile_types
from nestscope.sim.image.synthetic import synthetic_state

TYPES = profile_types("5.10-like")
WILD = 0xC000_0F00_0000_0000


@cache
def _image() -> Image:
    """One slot split in three; nested guests 1 to 3."""
    state = synthetic_state(gfns=300, entries=30, nested=3)
    (vm,) = state.vms
    slot = vm.memslots[0]
    slots = tuple(replace(slot, id=9 - n, base_gfn=n << 20) for n in range(3))
    slots = (slot, *(replace(other, rmap=type(slot.rmap)()) for other in slots[1:]))
    return build_image(replace(state, vms=(replace(vm, memslots=slots),)), TYPES)


def _read(changes: dict[int, bytes]) -> State:
    """Read the image with bytes at kernel addresses changed."""
    image = _image()
    regions = [Region(start, data.copy()) for start, data in image.memory.regions]
    for address, data in changes.items():
        physical = image.kernel.memory.translate(address)
        for start, whole in regions:
            if start <= physical < start + len(whole):
                whole[physical - start : physical - start + len(data)] = list(data)
    memory = SparseMemory(regions)
    return read_state(memory, image.facts.open(memory, TYPES), image.state.source)


def _kvm() -> int:
    return _image().state.vms[0].kvm


def _memslots() -> int:
    return _image().kernel.memory.u64(_kvm() + TYPES.offset("kvm", "memslots"))


def _word(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def _slot_place(number: int, member: str) -> int:
    first = _memslots() + TYPES.offset("kvm_memslots", "memslots")
    size = TYPES.struct("kvm_memory_slot").size
    return first + number * size + TYPES.offset("kvm_memory_slot", member)


def test_slots_come_by_base_gfn_although_the_array_is_the_other_way_round() -> None:
    state = _read({})
    assert state.problems == ()
    assert [slot.base_gfn for slot in state.vms[0].memslots] == [0, 1 << 20, 2 << 20]
    assert _image().kernel.memory.u64(_slot_place(0, "base_gfn")) == 2 << 20


def test_only_used_slots_count_and_no_invalid_one() -> None:
    used = _memslots() + TYPES.offset("kvm_memslots", "used_slots")
    assert [slot.base_gfn >> 20 for slot in _read({used: _word(2, 4)}).vms[0].memslots] == [1, 2]
    invalid = {_slot_place(1, "flags"): _word(KVM_MEMSLOT_INVALID, 4)}
    assert [slot.base_gfn >> 20 for slot in _read(invalid).vms[0].memslots] == [0, 2]


@pytest.mark.parametrize("used", [-1, 32768, 1 << 30])
def test_an_impossible_number_of_slots_is_a_problem(used: int) -> None:
    place = _memslots() + TYPES.offset("kvm_memslots", "used_slots")
    state = _read({place: used.to_bytes(4, "little", signed=True)})
    assert state.vms[0].memslots == ()
    (problem,) = state.problems
    assert (problem.path, problem.address) == ("vms[0].memslots", _memslots())
    assert f"used_slots is {used}" in problem.message


def test_a_wild_array_is_a_problem() -> None:
    state = _read({_kvm() + TYPES.offset("kvm", "memslots"): _word(WILD)})
    assert [problem.path for problem in state.problems] == ["vms[0].memslots"]
    assert len(state.vms[0].nested) == 3


def test_nested_guests_are_found_whatever_the_highest_number_says() -> None:
    place = _kvm() + TYPES.offset("kvm", "arch.max_nested_lpid")
    assert [guest.l1_lpid for guest in _read({place: _word(1, 4)}).vms[0].nested] == [1, 2, 3]


def test_a_wild_nested_guest_is_unknown_and_the_others_are_there() -> None:
    state = _read({_kvm() + TYPES.offset("kvm", "arch.nested_guests[2]"): _word(WILD)})
    assert [guest.l1_lpid for guest in state.vms[0].nested] == [1, 2, 3]
    assert [guest.refcnt for guest in state.vms[0].nested] == [1, None, 1]
    assert [problem.path for problem in state.problems] == ["vms[0].nested[1]"]
