"""Each kernel call: right, it makes no difference; done wrongly, it makes one."""

import pytest

from nestscope.decoders.words.pte import PTE_C, PTE_R
from nestscope.plugin.differential.follow.guest_calls import NestedTlbie, SetPartitionTable
from nestscope.plugin.differential.follow.leaf_calls import (
    CreatePte,
    FreeTree,
    HandleSetRc,
    UnmapPte,
    UpdateRcList,
)
from nestscope.sim import tlbie as model_tlbie
from nestscope.sim.constants import EAGAIN, H_PARAMETER, H_SUCCESS
from nestscope.sim.create import create_pte
from nestscope.sim.operations import Tlbie
from nestscope.sim.rmap import pack
from nestscope.sim.steps import drain
from nestscope.sim.unmap import unmap_pte, update_nest_rmap_rc_list
from tests.sim.world import World

from .double import mirrored, place_of

GPA = 0x90_0000
GFN = GPA >> 16
N_GPA = 0x100_0000
NEW = 0x300_0000


@pytest.fixture
def world() -> World:
    """Nested guests 1 and 2 map one guest page: a list of two."""
    made = World()
    for l1_lpid in (1, 2):
        made.run(f"map {l1_lpid} {N_GPA:#x} {GPA:#x} 64K rwxRC", f"store {l1_lpid} {N_GPA:#x} 1")
    return made


def unmap(world: World) -> UnmapPte:
    mirror, checker = mirrored(world)
    tree = mirror.kvm.pgtable
    return UnmapPte(mirror, checker, tree, place_of(tree, GPA), GPA, 0, None)


def test_unmapping_a_host_leaf_takes_chain_and_shadow_leaves(world: World) -> None:
    call = unmap(world)
    assert call.before() == []
    unmap_pte(world.model.kvm, world.model.kvm.pgtable, GPA, 0)
    assert call.after(0) == []
    assert [chain.gfn for chain in world.chains()] == [0x80]


@pytest.mark.parametrize("kept", ["leaf", "chain", "shadow"])
def test_what_unmapping_forgets_is_told(world: World, kept: str) -> None:
    call = unmap(world)
    assert call.before() == []
    kvm = world.model.kvm
    leaf, shadow = kvm.pgtable.find(GPA)[0], kvm.nested[2].shadow.find(N_GPA)[0]
    chain = kvm.memslots[0].rmap[GFN]
    unmap_pte(kvm, kvm.pgtable, GPA, 0)
    if kept == "leaf":
        kvm.pgtable.change(GPA, 0, leaf)
    elif kept == "chain":
        kvm.memslots[0].rmap[GFN] = chain
    else:
        kvm.nested[2].shadow.change(N_GPA, 0, shadow)
    (told,) = call.after(0)
    where = {"leaf": f"host_leaves[{GPA:#x}]", "chain": "rmap[gfn=0x90]"}
    assert told.path.endswith(where.get(kept, f"nested[l1_lpid=2].leaves[{N_GPA:#x}]"))


def test_clearing_another_pte_than_the_one_at_the_address_is_told(world: World) -> None:
    call = unmap(world)
    call.place += 8
    (told,) = call.before()
    assert "its PTE cleared" in told.expected


def create(world: World, *, refused: bool = False) -> CreatePte:
    """Nested guest 1 maps the page once more, at NEW."""
    mirror, checker = mirrored(world)
    tree = mirror.kvm.nested[1].shadow
    pte = tree.find(N_GPA)[0]
    entry = (mirror.kvm.memslots[0], GFN, pack(1, NEW))
    return CreatePte(mirror, checker, tree, pte, NEW, 16, entry, refused)


def kernel_creates(world: World, call: CreatePte, *, with_entry: bool = True) -> None:
    kvm = world.model.kvm
    entry = (kvm.memslots[0], GFN, pack(1, NEW)) if with_entry else None
    steps = create_pte(kvm, kvm.nested[1].shadow, call.pte, NEW, 16, kvm.mmu_invalidate_seq, entry)
    assert drain(steps) == 0


def test_creating_a_shadow_leaf_enters_it_in_the_chain(world: World) -> None:
    call = create(world)
    assert call.before() == []
    kernel_creates(world, call)
    assert call.after(0) == []


def test_a_shadow_leaf_without_entry_is_told(world: World) -> None:
    call = create(world)
    kernel_creates(world, call, with_entry=False)
    (told,) = call.after(0)
    assert told.path.endswith("rmap[gfn=0x90]")
    assert told.expected.startswith(f"l1_lpid 1 n_gpa {NEW:#x} -> ")


def test_success_without_a_leaf_is_told_and_a_refusal_needs_none(world: World) -> None:
    assert [told.observed for told in create(world).after(0)][:1] == ["no leaf"]
    assert create(world).after(-EAGAIN) == []


def test_a_leaf_that_an_invalidation_should_have_prevented_is_told(world: World) -> None:
    call = create(world, refused=True)
    assert call.before() == []
    kernel_creates(world, call)
    told = call.after(0)
    assert told[0].path.endswith("kvmppc_create_pte")
    assert "mmu_invalidate_seq" in told[0].expected


def test_a_call_counts_from_the_moment_when_its_leaf_is_seen(world: World) -> None:
    call = create(world)
    call.settle()
    assert not call.done
    kernel_creates(world, call)
    call.settle()
    assert call.done
    # Another vCPU takes the page away before this one returns.
    unmap_pte(world.model.kvm, world.model.kvm.pgtable, GPA, 0)
    unmap_pte(call.vm.kvm, call.vm.kvm.pgtable, GPA, 0)
    assert call.after(0) == []


def test_another_host_page_ored_into_a_leaf_is_told(world: World) -> None:
    call = create(world)
    call.address, call.entry = N_GPA, None
    call.pte ^= 3 << 16
    (told,) = call.before()
    assert "finding 0002" in told.observed


def test_set_rc_changes_the_leaf_and_says_so(world: World) -> None:
    mirror, checker = mirrored(world)
    tree = mirror.kvm.pgtable
    for side in (tree, world.model.kvm.pgtable):
        side.change(GPA, 0, side.find(GPA)[0] & ~(PTE_R | PTE_C))
    call = HandleSetRc(mirror, checker, tree, GPA, True)
    assert call.before() == []
    theirs = world.model.kvm.pgtable
    theirs.change(GPA, 0, theirs.find(GPA)[0] | PTE_R | PTE_C)
    assert call.after(1) == []
    (told,) = HandleSetRc(mirror, checker, tree, GPA, True).after(0)
    assert (told.expected, told.observed) == ("True", "False")


@pytest.mark.parametrize("forgets", [False, True])
def test_ageing_clears_r_in_host_and_shadow_leaves(world: World, forgets: bool) -> None:
    mirror, checker = mirrored(world)
    kvm = world.model.kvm
    pte = kvm.pgtable.find(GPA)[0]
    kvm.pgtable.change(GPA, 0, pte & ~PTE_R)
    call = UpdateRcList(mirror, checker, mirror.kvm.memslots[0], GFN, PTE_R, pte, 1)
    assert call.before() == []
    if not forgets:
        update_nest_rmap_rc_list(kvm, kvm.memslots[0], GFN, PTE_R, pte & 0x1FFFFFFFFFFF000, 0)
    told = call.after(0)
    paths = [difference.path.rpartition(".nested")[2] for difference in told]
    kept = [f"[l1_lpid={l1_lpid}].leaves[{N_GPA:#x}]" for l1_lpid in (1, 2)]
    assert sorted(paths) == (kept if forgets else [])


def test_with_several_vcpus_the_hardware_may_set_r_again_at_once(world: World) -> None:
    mirror, checker = mirrored(world)
    checker.one_vcpu = False
    kvm = world.model.kvm
    pte = kvm.pgtable.find(GPA)[0]
    kvm.pgtable.change(GPA, 0, pte & ~PTE_R)
    call = UpdateRcList(mirror, checker, mirror.kvm.memslots[0], GFN, PTE_R, pte, 1)
    assert call.before() == []
    assert call.after(0) == []
    assert checker.tally.rc_gained == 2


def test_a_tree_that_is_not_emptied_is_told(world: World) -> None:
    mirror, checker = mirrored(world)
    tree = mirror.kvm.nested[1].shadow
    call = FreeTree(mirror, checker, tree)
    assert len(call.after(0)) == 1
    world.model.kvm.nested[1].shadow.clear()
    assert call.after(0) == []
    # Whose it is next must be looked up.
    assert tree.root not in mirror.structs


def tlbie(world: World) -> NestedTlbie:
    mirror, checker = mirrored(world)
    operation = Tlbie(ric=0, prs=0, r=1, is_=0, lpid=1, ap=5, epn=N_GPA >> 12)
    return NestedTlbie(mirror, checker, *model_tlbie.encode(operation))


def test_a_tlbie_that_leaves_a_leaf_is_told(world: World) -> None:
    call = tlbie(world)
    assert call.before() == []
    (told,) = call.after(H_SUCCESS)
    assert told.path.endswith(f"nested[l1_lpid=1].leaves[{N_GPA:#x}]")
    # Unless another vCPU made it anew.
    call.made.add((call.cleared[0][0].root, N_GPA))
    assert call.after(H_SUCCESS) == []


def test_a_tlbie_that_did_its_work_makes_no_difference(world: World) -> None:
    call = tlbie(world)
    call.before()
    unmap_pte(call.vm.kvm, call.vm.kvm.nested[1].shadow, N_GPA, 0)  # its own unmap was followed
    assert call.after(H_SUCCESS) == []
    (told,) = call.after(H_PARAMETER - (1 << 64))
    assert told.path.endswith("H_TLB_INVALIDATE.result")


def test_the_partition_table_is_taken_or_refused(world: World) -> None:
    mirror, checker = mirrored(world)
    world.model.kvm.l1_ptcr = 0x5_0004
    assert SetPartitionTable(mirror, checker, 0x5_0004).after(H_SUCCESS) == []
    told = SetPartitionTable(mirror, checker, 0x6_0004).after(H_SUCCESS)
    assert [difference.path.rpartition(".")[2] for difference in told] == ["l1_ptcr"]
