"""H_TLB_INVALIDATE and the shadow leaves that it takes: transitions 15 and 16, without RIC=2."""

import pytest

from .test_transitions import G, N, mapped, shadows
from .world import World


@pytest.mark.parametrize(
    ("ap", "left"),
    [(0, [True, False, True]), (5, [True, False, True]), (1, [False] * 3), (2, [False] * 3)],
)
def test_15_tlbie_clears_the_leaves_of_one_guest_page(ap: int, left: list[bool]) -> None:
    world = mapped(3)
    result = world.run(f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap={ap} epn=0x1012")
    assert result.ret == 0
    assert shadows(world, 1, 3) == left


def test_15_the_chain_keeps_the_entry_as_a_stale_one() -> None:
    world = mapped(1)
    world.run("tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn=0x1000")
    assert world.shadow(1, N) is None
    assert world.chain(G) == ("single", ((1, N),))


def test_15_other_nested_guests_keep_their_leaves() -> None:
    world = mapped(1, (1, 2))
    world.run("tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn=0x1000")
    assert world.shadow(2, N) is not None


@pytest.mark.parametrize("ap", [3, 4, 6, 7])
def test_15_an_unknown_page_size_is_refused(ap: int) -> None:
    world = mapped(1)
    result = world.run(f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap={ap} epn=0x1000")
    assert result.ret == 2**64 - 4
    assert world.shadow(1, N) is not None


@pytest.mark.parametrize(("is_", "left"), [(2, [False, True]), (3, [False, False])])
def test_16_ric_0_empties_the_shadow_and_keeps_the_nested_guest(is_: int, left: list[bool]) -> None:
    world = mapped(1, (1, 2))
    assert world.run(f"tlbie ric=0 prs=0 r=1 is={is_} lpid=1 ap=0 epn=0").ret == 0
    assert [world.shadow(lpid, N) is not None for lpid in (1, 2)] == left
    assert [n.l1_lpid for n in world.vm.nested] == [1, 2]


def test_16_ric_1_does_nothing() -> None:
    world = mapped(1)
    before = world.shadow(1, N)
    assert world.run("tlbie ric=1 prs=0 r=1 is=2 lpid=1 ap=0 epn=0").ret == 0
    assert world.shadow(1, N) == before is not None


@pytest.mark.parametrize(
    "form",
    [
        "ric=0 prs=0 r=0 is=0",
        "ric=0 prs=1 r=1 is=0",
        "ric=3 prs=0 r=1 is=2",
        "ric=0 prs=0 r=1 is=1",
        "ric=1 prs=0 r=1 is=0",
        "ric=2 prs=0 r=1 is=0",
    ],
)
def test_16_invalid_forms_are_refused_and_change_nothing(form: str) -> None:
    world = mapped(1)
    before = world.shadow(1, N)
    assert world.run(f"tlbie {form} lpid=1 ap=5 epn=0x1000").ret == 2**64 - 4
    assert world.shadow(1, N) == before is not None


def test_15_a_2m_tlbie_stops_at_2m() -> None:
    world = World()
    for page in (0, 0x1F_0000, 0x20_0000):
        world.run(f"map 1 {N + page:#x} {G:#x} 64K rRC", f"load 1 {N + page:#x}")
    world.run("tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=1 epn=0x1005")
    assert [world.shadow(1, N + page) is not None for page in (0, 0x1F_0000, 0x20_0000)] == [
        False,
        False,
        True,
    ]
