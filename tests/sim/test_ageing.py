"""What the host's memory management does to R: transition 19."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .world import World

G, N = 0x90_0000, 0x100_0000
R, C = 0x100, 0x80
PAGE = 1 << 16


def mapped(lpids: tuple[int, ...] = (1, 2), size: str = "64K", **facts: int) -> World:
    world = World(**facts)
    for lpid in lpids:
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC", f"store {lpid} {N:#x} 1")
    return world


def has_r(world: World, lpid: int) -> bool:
    return bool((world.shadow(lpid, N) or 0) & R)


def test_19_ageing_clears_r_in_the_host_leaf_and_in_every_shadow_leaf() -> None:
    world = mapped()
    chain = world.chain(G)
    assert world.run(f"age {G:#x} {PAGE:#x}").ret == 1
    assert not (world.host(G) or R) & R
    assert not has_r(world, 1)
    assert not has_r(world, 2)
    assert all((world.shadow(lpid, N) or 0) & C for lpid in (1, 2))
    assert world.chain(G) == chain


def test_19_a_page_that_is_old_already_keeps_r_in_its_shadow_leaves() -> None:
    world = mapped()
    world.run(f"age {G:#x} {PAGE:#x}", f"load 1 {N:#x}")
    assert has_r(world, 1)  # the hardware set it again, in the shadow leaf only
    assert world.run(f"age {G:#x} {PAGE:#x}").ret == 0
    assert has_r(world, 1)


def test_19_without_hardware_that_sets_r_the_access_makes_the_page_young_again() -> None:
    world = mapped(rc_by_hardware=False)
    world.run(f"age {G:#x} {PAGE:#x}")
    assert world.run(f"testage {G:#x}").ret == 0
    world.run(f"load 1 {N:#x}")
    assert world.run(f"testage {G:#x}").ret == 1
    assert (has_r(world, 1), has_r(world, 2)) == (True, False)


def test_19_looking_at_the_age_changes_nothing() -> None:
    world = mapped()
    before = world.state
    assert world.run(f"testage {G:#x}").ret == 1
    assert world.run("testage 0x950000").ret == 0
    assert world.vm.host_leaves.covering(G) == before.vms[0].host_leaves.covering(G)


def test_19_of_a_huge_leaf_only_the_chain_of_the_gfn_itself_counts() -> None:
    world = World()
    world.run("collapse 0xa00000 2M", "write 0xa00000 1")
    world.run(f"map 1 {N:#x} 0xa30000 64K rwxRC", f"load 1 {N:#x}")
    assert world.chain(0xA0_0000) == ("single", ((1, N),))
    world.run("age 0xa30000 0x10000")  # the entry is in the list of 0xa00000
    assert not (world.host(0xA3_0000) or R) & R
    assert has_r(world, 1)


def test_19_of_a_whole_huge_leaf_every_shadow_leaf_loses_r() -> None:
    world = World()
    world.run("collapse 0xa00000 2M", "write 0xa00000 1")
    world.run(f"map 1 {N:#x} 0xa30000 64K rwxRC", f"load 1 {N:#x}")
    assert world.run("age 0xa00000 0x200000").ret == 1
    assert not has_r(world, 1)


@pytest.mark.parametrize("by_reclaim", [False, True])
def test_19_damon_ages_the_page_behind_the_one_it_sampled_and_reclaim_does_not(
    by_reclaim: bool,
) -> None:
    """Finding 0009: its range ends a page after the byte that it looked at."""
    world = mapped((1,), ages_by_reclaim=by_reclaim)
    behind, beyond = G + PAGE, G + 2 * PAGE
    for gpa in (behind, beyond):
        n_gpa = N + gpa - G
        world.run(f"map 1 {n_gpa:#x} {gpa:#x} 64K rwxRC", f"store 1 {n_gpa:#x} 1")
    assert world.run(f"age {G:#x} {PAGE:#x}").ret == 1
    young = [bool((world.host(gpa) or 0) & R) for gpa in (G, behind, beyond)]
    assert young == [False, by_reclaim, True]


@given(st.lists(st.sampled_from(["age", "load 1", "load 2", "store 1", "store 2"]), max_size=20))
def test_19_where_an_interrupt_sets_r_a_young_shadow_leaf_has_a_young_host_leaf(
    steps: list[str],
) -> None:
    world = mapped(rc_by_hardware=False)
    for step in steps:
        if step == "age":
            world.run(f"age {G:#x} {PAGE:#x}")
        else:
            world.run(f"{step} {N:#x}" + (" 1" if step.startswith("store") else ""))
        host = world.host(G) or 0
        for lpid in (1, 2):
            assert not (world.shadow(lpid, N) or 0) & (R | C) & ~host
