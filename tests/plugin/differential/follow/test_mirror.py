"""The mirror of a VM: as it was read, and compared as a whole."""

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.chains import FORM_LIST
from nestscope.decoders.state import Chains, Leaves
from nestscope.decoders.words.pte import PTE_C, PTE_EAA_WRITE, PTE_LEAF, PTE_R
from nestscope.plugin.differential.follow.checks import Tally, gained_rc
from nestscope.plugin.differential.follow.tracer import same_thread
from nestscope.plugin.differential.follow.whole import compare_vm
from nestscope.sim.generate import CALM, random_operations
from nestscope.sim.layout import LAYOUT
from tests.sim.world import World

from .double import mirrored

WORDS = st.integers(0, 2**64 - 1)
MAPPED = (
    "map 1 0x1000000 0x900000 64K rwxRC",
    "load 1 0x1000000",
    "map 2 0x1000000 0x900000 64K rwxRC",
    "load 2 0x1000000",
)


def world_of(seed: int) -> World:
    world = World()
    for operation in islice(random_operations(seed, LAYOUT, CALM), 60):
        world.do(operation)
    return world


@pytest.mark.parametrize("seed", range(4))
def test_a_mirror_has_the_very_chains_and_leaves_that_were_read(seed: int) -> None:
    world = world_of(seed)
    mirror, _ = mirrored(world)
    theirs, mine = world.model.kvm, mirror.kvm
    assert [slot.rmap for slot in mine.memslots] == [slot.rmap for slot in theirs.memslots]
    assert sorted(mine.pgtable.leaves()) == sorted(theirs.pgtable.leaves())
    assert list(mine.nested) == sorted(theirs.nested)
    for l1_lpid, guest in mine.nested.items():
        assert sorted(guest.shadow.leaves()) == sorted(theirs.nested[l1_lpid].shadow.leaves())
    assert compare_vm(mirror, world.vm, Tally()) == []


def test_a_guest_made_anew_under_the_same_root_table_is_taken_over() -> None:
    world = World()
    world.run(*MAPPED)
    mirror, _ = mirrored(world)
    (first, *others) = world.vm.nested
    anew = replace(first, address=0xC000_0000_0BEA_4000, shadow_lpid=77)
    assert mirror.adopt_nested((anew, *others)) == []
    tree = mirror.kvm.nested[first.l1_lpid].shadow
    assert mirror.structs[tree.root] == anew.address
    assert mirror.tree_by_lpid(77) is tree


def test_a_chain_without_a_single_good_entry_is_none_in_the_mirror() -> None:
    world = World()
    world.run(*MAPPED)
    mirror, _ = mirrored(world)
    (slot,) = world.vm.memslots
    bad = replace(slot, rmap=Chains.build([(0x90, FORM_LIST, ())]))
    told = compare_vm(mirror, replace(world.vm, memslots=(bad,)), Tally())
    page = next(difference for difference in told if "[gfn=0x90]" in difference.path)
    assert page.observed == "empty"


def test_each_kind_of_change_is_told_once() -> None:
    world = World()
    world.run(*MAPPED)
    mirror, _ = mirrored(world)
    kvm = world.model.kvm
    kvm.nested[2].shadow.change(0x100_0000, 0, 0)
    kvm.memslots[0].rmap.pop(0x90_0000 >> 16)
    kvm.l1_ptcr = 0x5_0004
    told = compare_vm(mirror, world.vm, Tally())
    assert [
        difference.path.rpartition("]." if "]." in difference.path else ".")[2]
        for difference in told
    ] == [
        "l1_ptcr",
        "leaves[0x1000000]",
        "rmap[gfn=0x90]",
    ]
    assert compare_vm(mirror, world.vm, Tally()) == []


def test_a_partition_table_that_is_not_followed_is_taken_over() -> None:
    world = World()
    mirror, _ = mirrored(world)
    world.model.kvm.l1_ptcr = 0x5_0004
    assert compare_vm(mirror, world.vm, Tally(), ptcr_followed=False) == []
    assert mirror.kvm.l1_ptcr == 0x5_0004


def test_a_nested_guest_that_appears_with_leaves_is_told() -> None:
    world = World()
    mirror, _ = mirrored(world)
    world.run(*MAPPED[:2])
    told = compare_vm(mirror, world.vm, Tally())
    assert any(difference.expected == "a new nested guest without leaves" for difference in told)


def test_a_nested_guest_that_appears_without_leaves_and_one_that_goes_are_taken_over() -> None:
    world = World()
    world.run(*MAPPED)
    mirror, _ = mirrored(world)
    (vm,) = world.state.vms
    one, two = vm.nested
    renamed = replace(two, l1_lpid=9, shadow_pgtable=0x77, leaves=Leaves())
    assert mirror.adopt_nested((one, renamed)) == []
    assert sorted(mirror.kvm.nested) == [1, 9]
    # A vCPU may still be in the one that went.
    assert mirror.tree_by_root(two.shadow_pgtable or 0) is not None


def test_a_new_array_must_be_empty_and_a_known_one_keeps_its_chains() -> None:
    world = World()
    world.run(*MAPPED)
    mirror, _ = mirrored(world)
    (slot,) = world.vm.memslots
    chains = dict(mirror.kvm.memslots[0].rmap)
    assert mirror.adopt_slots((replace(slot, flags=1, rmap=Chains()),)) == []
    assert mirror.kvm.memslots[0].rmap == chains
    (told,) = mirror.adopt_slots((replace(slot, rmap_array=0x5000_0000),))
    assert told.expected == "a new array without entries"


@given(WORDS, st.booleans(), st.booleans())
def test_hardware_may_set_r_and_where_writable_c(word: int, r: bool, c: bool) -> None:
    leaf = (word | PTE_LEAF) & ~(PTE_R | PTE_C)
    gained = leaf | (PTE_R if r else 0) | (PTE_C if c else 0)
    assert gained_rc(leaf, gained) == (not c or bool(leaf & PTE_EAA_WRITE))
    # It never takes one away.
    assert gained_rc(gained, leaf) == (not r and not c)


@given(WORDS, st.integers(0, 63))
def test_any_other_bit_is_not_of_the_hardware(word: int, bit: int) -> None:
    changed = word ^ 1 << bit
    if 1 << bit not in (PTE_R, PTE_C):
        assert not gained_rc(word, changed)


@given(st.sampled_from((14, 15)), st.integers(0, 2**40), st.data())
def test_a_stack_is_aligned_to_its_size(shift: int, number: int, data: st.DataObject) -> None:
    size = 1 << shift
    base = 0xC000_0000_0000_0000 + number * size
    one, other = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    assert same_thread(base + one, base + other, size)
    assert not same_thread(base + one, base + other + size, size)
