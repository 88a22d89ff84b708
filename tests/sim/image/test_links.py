"""Links that `read_state` does not follow are as the kernel would have them, too."""

import pytest

from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.state import KernelInfo, Memslot, State, Vm
from nestscope.sim.image.build import Image, build_image
from nestscope.sim.image.memslots import hash_bucket
from nestscope.sim.image.profiles import profile_types
from tests.sim.image.states import SOURCE

TYPES = profile_types("6.12-like")


def _image(count: int) -> tuple[Image, KernelMemory, int]:
    """Return an image with `count` memslots, and the address of its VM."""
    slots = tuple(Memslot(n, (count - n) * 16, 8, 0, 0, 0) for n in range(count))
    vm = Vm(0, 1, True, False, 0, slots)
    image = build_image(State(SOURCE, KernelInfo("x", 16), (vm,)), TYPES)
    return image, image.kernel.memory, image.state.vms[0].kvm


def _rb_nodes(memory: KernelMemory, node: int, parent: int) -> tuple[list[int], int]:
    """Return the nodes under `node` in order, and the number of black ones on every path."""
    if not node:
        return [], 1
    colour_and_parent = memory.u64(node)
    red = not colour_and_parent & 1
    assert colour_and_parent & ~1 == parent
    right, left = memory.u64(node + 8), memory.u64(node + 16)
    for child in (left, right):
        assert not (red and child and not memory.u64(child) & 1), "a red node has a red child"
    before, black = _rb_nodes(memory, left, node)
    after, same = _rb_nodes(memory, right, node)
    assert black == same
    return [*before, node, *after], black + (not red)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7, 8, 40])
@pytest.mark.parametrize("idx", [0, 1])
def test_gfn_tree_is_a_red_black_tree_in_order_of_base_gfn(count: int, idx: int) -> None:
    _, memory, kvm = _image(count)
    memslots = kvm + TYPES.offset("kvm", "__memslots") + idx * TYPES.struct("kvm_memslots").size
    root = memory.u64(memslots + TYPES.offset("kvm_memslots", "gfn_tree"))
    assert not root or memory.u64(root) & 1, "the root is black"
    nodes, _ = _rb_nodes(memory, root, 0)
    to_slot = -TYPES.offset("kvm_memory_slot", f"gfn_node[{idx}]")
    base_gfn = TYPES.offset("kvm_memory_slot", "base_gfn")
    found = [memory.u64(node + to_slot + base_gfn) for node in nodes]
    assert found == [n * 16 for n in range(1, count + 1)]


def test_hash_lists_lead_back() -> None:
    _, memory, kvm = _image(200)
    memslots = memory.u64(kvm + TYPES.offset("kvm", "memslots"))
    heads = memslots + TYPES.offset("kvm_memslots", "id_hash")
    found = []
    for bucket in range(128):
        place = heads + 8 * bucket
        while node := memory.u64(place):
            assert memory.u64(node + 8) == place  # pprev
            slot = node - TYPES.offset("kvm_memory_slot", "id_node[1]")
            number = memory.read(slot + TYPES.offset("kvm_memory_slot", "id"), 2)
            found.append(int.from_bytes(number, "little"))
            assert hash_bucket(found[-1], 128) == bucket
            place = node
    assert sorted(found) == list(range(200))


def test_the_bucket_is_that_of_hash_32() -> None:
    # hash_32(val, 7): val * 0x61C88647 in 32 bits, the seven highest of them.
    assert [hash_bucket(number, 128) for number in (0, 1, 2, 3)] == [0, 48, 97, 18]
