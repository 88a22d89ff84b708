"""Two-stage walks on trees that the test lays out by hand."""

import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.guest_memory import FirstReadable, GuestMemory
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.vmm_memory import VmmMemory
from nestscope.decoders.radix import RadixRoot
from nestscope.decoders.state import (
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Source,
    State,
    Vm,
)
from nestscope.decoders.two_stage import (
    WalkError,
    chain_gfn,
    choose_vm,
    walk_guest_address,
    walk_nested_address,
)
from nestscope.decoders.words.pate import make_dw0
from nestscope.decoders.words.pde import make_pde

LEVELS = ((39, 13), (30, 9), (21, 9), (16, 5))
LEAF = 3 << 62
RWX_R = 0x107


class Words:
    """Memory of big-endian doublewords; everything else reads as zeros up to `size`."""

    def __init__(self, size: int = 1 << 40) -> None:
        self.words: dict[int, int] = {}
        self.size = size
        self.free = 0x100_0000

    def read(self, address: int, length: int) -> bytes:
        if address + length > self.size:
            raise UnreadableMemoryError(address, length, "beyond the test's memory")
        data = b"".join(
            self.words.get(at, 0).to_bytes(8, "big")
            for at in range(address & ~7, address + length + 7 & ~7, 8)
        )
        return data[address & 7 :][:length]

    def table(self, bits: int) -> int:
        size = 8 << bits
        self.free = self.free + size - 1 & -size
        self.free += size
        return self.free - size

    def put(self, root: int, address: int, real: int, flags: int = RWX_R) -> None:
        """Map 64 KiB at `address`, making tables."""
        table = root
        for (shift, bits), below in zip(LEVELS, (*LEVELS[1:], None), strict=True):
            at = table + (address >> shift & (1 << bits) - 1) * 8
            if below is None:
                self.words[at] = LEAF | real | flags
            else:
                if at not in self.words:
                    self.words[at] = make_pde(self.table(below[1]), below[1])
                table = self.words[at] & 0x0FFF_FFFF_FFFF_FF00


GUEST_ROOT, HOST_ROOT, SHADOW_ROOT = 0x10_0000, 0x20_0000, 0x30_0000
N_GPA, GPA, REAL = 0x7700_0000, 0x90_0000, 0x4000_0000


class World:
    """A guest tree, a host tree and a shadow tree that agree on one page."""

    def __init__(self) -> None:
        self.physical = Words()
        self.guest = Words()
        self.guest.put(GUEST_ROOT, N_GPA, GPA)
        self.physical.put(HOST_ROOT, GPA, REAL)
        self.physical.put(SHADOW_ROOT, N_GPA, REAL, 0x104)
        nested = NestedGuest(
            3, 7, 1, make_dw0(GUEST_ROOT, 13), 0, LINEAR_START | SHADOW_ROOT, Leaves()
        )
        chain = Chains.build([(GPA >> 16, FORM_SINGLE, [(3, N_GPA)])])
        slot = Memslot(0, 0, 4096, 0x7FFF_0000_0000, 0, 0, chain)
        self.vm = Vm(1, 1, True, False, 0x40000, (slot,), Leaves(), (nested,))
        self.state = State(Source("test", "t"), KernelInfo(None, 16), (self.vm,))

    def walk(self, n_gpa: int, lpid: int = 3):
        return walk_nested_address(
            self.physical,
            self.guest,
            self.state,
            self.vm,
            LINEAR_START | HOST_ROOT,
            lpid,
            n_gpa,
        )


def test_a_nested_address_goes_through_both_stages_and_the_shadow_tree():
    found = World().walk(N_GPA + 0x123)
    assert found.guest.leaf.real_address == GPA + 0x123
    assert found.host.leaf.real_address == REAL + 0x123
    assert found.shadow.leaf.real_address == REAL + 0x123
    assert [len(walk.steps) for walk in (found.guest, found.host, found.shadow)] == [4, 4, 4]
    assert str(found.shadow.leaf.permissions) == "-r--"
    assert found.shadow_agrees is True
    assert found.chain.gfn == GPA >> 16


def test_a_shadow_leaf_that_leads_elsewhere_is_said():
    world = World()
    world.physical.put(SHADOW_ROOT, N_GPA, REAL + 0x10000)
    assert world.walk(N_GPA).shadow_agrees is False


def test_where_the_guests_tree_ends_there_is_no_host_stage():
    found = World().walk(0x1234_0000)
    assert found.guest.fault is not None
    assert found.host is None
    assert found.shadow_agrees is None


def test_a_guest_address_has_the_hosts_stage_only():
    world = World()
    found = walk_guest_address(
        world.physical, world.state, world.vm, LINEAR_START | HOST_ROOT, GPA + 8
    )
    assert found.host.leaf.real_address == REAL + 8
    assert (found.guest, found.shadow, found.nested) == (None, None, None)
    assert found.chain.entries == ((3, N_GPA),)


@pytest.mark.parametrize(
    ("gpa", "leaf_shift", "page_shift", "gfn"),
    [
        (0x91_2345, 16, 16, 0x91),  # a base page
        (0x3456_7890, 21, 16, 0x3440),  # the first gfn of a leaf of 2 MiB
        (0x3456_7890, 21, 12, 0x34400),
        (0x91_2345, 12, 16, 0x91),  # damaged: a leaf smaller than the kernel's page
    ],
)
def test_a_chain_hangs_at_the_first_gfn_of_the_hosts_leaf(gpa, leaf_shift, page_shift, gfn):
    assert chain_gfn(gpa, leaf_shift, page_shift) == gfn


def test_a_leaf_smaller_than_a_page_does_not_end_the_walk():
    world = World()
    world.physical.put(HOST_ROOT, 0x40_0000, REAL)
    # The last level but one leads to a table of 512 entries of 4 KiB, against the kernel's habit.
    table = world.physical.table(9)
    world.physical.words[table] = LEAF | REAL | RWX_R
    upper = walk_guest_address(
        world.physical, world.state, world.vm, LINEAR_START | HOST_ROOT, 0x40_0000
    ).host.steps[2]
    world.physical.words[upper.entry_address] = make_pde(table, 9)
    found = walk_guest_address(
        world.physical, world.state, world.vm, LINEAR_START | HOST_ROOT, 0x40_0000
    )
    assert found.host.leaf.shift == 12
    assert found.host.leaf.real_address == REAL


def test_a_page_directory_outside_of_the_linear_map_is_named():
    world = World()
    with pytest.raises(WalkError, match="page directory at 0xc008000000000000"):
        walk_guest_address(world.physical, world.state, world.vm, 0xC008_0000_0000_0000, GPA)


def test_an_unknown_nested_guest_is_refused_with_those_that_exist():
    with pytest.raises(WalkError, match=r"no nested guest 5 \(there are: 3\)"):
        World().walk(N_GPA, lpid=5)


def test_a_vm_must_be_chosen_where_there_are_several():
    state = World().state
    two = State(state.source, state.kernel, (*state.vms, *state.vms))
    assert choose_vm(state, None) is state.vms[0]
    assert choose_vm(two, 1) is two.vms[1]
    for states, number in ((two, None), (two, 2), (State(state.source, state.kernel), None)):
        with pytest.raises(WalkError):
            choose_vm(states, number)


def test_guest_memory_is_read_through_the_vmms_user_tree():
    # The user tree maps the slot's second page; the guest never touched it.
    physical = Words()
    physical.put(HOST_ROOT, 0x7FFF_0001_0000, REAL)
    physical.words[REAL + 0x10] = 0xABCD
    memory = VmmMemory(physical, RadixRoot(HOST_ROOT, 13), World().vm, 16)
    assert memory.read(0x1_0010, 8) == (0xABCD).to_bytes(8, "big")
    physical.words |= {REAL + 0xFF8: 1, REAL + 0x1000: 2}
    assert memory.read(0x1_0FF8, 16) == bytes(7) + b"\1" + bytes(7) + b"\2"
    with pytest.raises(UnreadableMemoryError, match="the VMM maps no page"):
        memory.read(0x2_0000, 8)
    with pytest.raises(UnreadableMemoryError, match="no memslot"):
        memory.read(4096 << 16, 8)


def test_the_second_way_is_taken_where_the_first_cannot_read():
    physical = Words()
    physical.words[REAL] = 0x55
    leaves = GuestMemory(physical, Leaves.build([(GPA, 16, LEAF | REAL | RWX_R)]))
    both = FirstReadable([GuestMemory(physical, Leaves()), leaves])
    assert both.read(GPA, 8) == (0x55).to_bytes(8, "big")
    with pytest.raises(UnreadableMemoryError):
        both.read(GPA + 0x10000, 8)
