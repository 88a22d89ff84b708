"""A host without a finding: the model does what the account says under "What would mend it"."""

from pathlib import Path

import pytest

from nestscope.decoders.state import State
from nestscope.sim.errors import HostDamageError
from nestscope.sim.facts import MENDABLE, Observations
from nestscope.sim.invariants import violations
from nestscope.sim.trace import parse

from .test_huge_pages import NGPA, RPN, G, logged_then_huge, world_with
from .world import World

FINDINGS = Path(__file__).parents[2] / "docs" / "findings"
ZERO = "0001-zero-entry-ends-a-chain"
MIXED = "0002-mixed-leaf-is-predicted"
MIXED_STORE = "0002-remapped-leaf-mixes-host-pages"
HUGE = "0003-huge-leaf-reaches-out-of-its-slot"
WRAPS = "0007-range-invalidation-wraps-around"
AGED = "0010-ageing-inside-a-huge-leaf-spares-the-shadow"


def replay(name: str, *mended: str, **facts: int) -> tuple[World, list[State]]:
    """Run a finding's trace; return the world and the State after every step."""
    world = World(start=False, mended=frozenset(mended), **facts)  # type: ignore[arg-type]
    states = []
    for operation in parse((FINDINGS / f"{name}.trace").read_text("utf-8")):
        world.do(operation)
        states.append(world.state)
    return world, states


def broken(states: list[State]) -> set[str]:
    """The rules that are broken at any step; a host that sets R and C itself breaks I4 rightly."""
    return {each.rule for state in states for each in violations(state, rc_by_hardware=False)}


@pytest.mark.parametrize(("name", "rules"), [(ZERO, {"I1", "I5"}), (MIXED, {"I1", "I2"})])
def test_a_trace_breaks_its_rules_and_mended_it_breaks_none_at_its_end(
    name: str, rules: set[str]
) -> None:
    _, states = replay(name)
    assert broken(states) == rules
    _, states = replay(name, name[:4])
    assert broken(states[-1:]) == set()


def test_0001_the_walk_goes_on_behind_an_entry_of_zero() -> None:
    world, _ = replay(ZERO, "0001")
    assert [world.shadow(lpid, 0) for lpid in (0, 1, 2)] == [None] * 3
    assert world.shadow(1, 0x100_0000) is not None  # of another page: nothing to do with it


@pytest.mark.parametrize("name", [MIXED, MIXED_STORE])
def test_0002_the_leaf_of_another_page_is_replaced_and_entered(name: str) -> None:
    world = World(start=False, mended=frozenset({"0002"}))  # type: ignore[arg-type]
    for operation in parse((FINDINGS / f"{name}.trace").read_text("utf-8")):
        world.do(operation)
        assert violations(world.state, rc_by_hardware=False) == []
        pte, host = world.shadow(1, 0x101_0000), world.host(0x92_0000)
        if pte is not None and host is not None:
            assert pte & RPN == host & RPN
            assert world.chain(0x92_0000) == ("single", ((1, 0x101_0000),))


def test_0003_a_leaf_that_would_reach_out_of_its_slot_is_a_base_page() -> None:
    with pytest.raises(HostDamageError, match=r"16 words before it .*finding 0003"):
        replay(HUGE)
    world, states = replay(HUGE, "0003")
    assert broken(states) == set()
    assert world.host_shift(0x2010_0000) == 16
    assert world.chain(0x2010_0000) == ("single", ((1, 0x100_0000),))


@pytest.mark.parametrize("offset", [0, 0x100000, 0x1F0000])
def test_0003_a_leaf_that_fills_its_slot_stays_huge(offset: int) -> None:
    world = World(mended=frozenset({"0003"}))  # type: ignore[arg-type]
    world.run(f"slot 1 {G:#x} 0x200000 0x200040000000 0", f"collapse {G:#x} 2M")
    world.run(f"map 1 {NGPA:#x} {G + offset:#x} 64K rwxRC", f"load 1 {NGPA:#x}")
    assert world.host_shift(G + offset) == 21


def test_0006_a_table_that_is_freed_takes_its_own_chains() -> None:
    world = world_with(21, mended=frozenset({"0006"}))  # type: ignore[arg-type]
    world.run("write 0x900000 1", "map 3 0x1000000 0x900000 64K rwxRC", "load 3 0x1000000")
    logged_then_huge(world, 2)
    pte = world.host(G + 0x20000)
    assert pte is not None
    world.run(f"load 2 {NGPA:#x}", observed=Observations(host_pages={(pte & RPN) >> 16: 0x90}))
    assert world.host_shift(G) == 21
    assert world.chain(0x90_0000) == ("single", ((3, 0x100_0000),))  # not this one
    assert world.chain(G + 0x20000) is None
    assert world.shadow(1, NGPA) is None


def test_0007_a_range_that_wraps_around_ends() -> None:
    with pytest.raises(HostDamageError, match="finding 0007"):
        replay(WRAPS)
    world, states = replay(WRAPS, "0007")
    assert len(states) == 4
    assert world.shadow(1, 0x100_0000) is not None  # far from the range


def test_0010_ageing_inside_a_huge_leaf_reaches_the_shadow_leaves() -> None:
    _, states = replay(AGED, rc_by_hardware=False)
    assert broken(states) == {"I4"}
    _, states = replay(AGED, "0010", rc_by_hardware=False)
    assert broken(states) == set()


def test_every_finding_that_can_be_mended_has_its_test() -> None:
    tests = [name for name in globals() if name.startswith("test_0")]
    assert {name[5:9] for name in tests} == set(MENDABLE)
