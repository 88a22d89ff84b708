"""H_RPT_INVALIDATE: transition 17."""

import pytest

from nestscope.sim.errors import UnmodelledError

from .world import World

G, N, M = 0x90_0000, 0x100_0000, 1 << 21
H_P2, H_P4, H_P5 = (2**64 - n for n in (55, 57, 58))
ALL = 2**64 - 1
NESTED, TLB, PWC, PAT = 1, 2, 4, 8


def rpti(
    world: World, kind: int, start: int, end: int, *, lpid: int = 1, target: int = 1, pages: int = 2
) -> int:
    line = f"rpti lpid={lpid} target={target} type={kind:#x} pages={pages:#x}"
    return world.run(f"{line} start={start:#x} end={end:#x}").ret


def mapped(pages: int, page_shift: int = 16) -> World:
    world = World(page_shift=page_shift)
    for lpid in (1, 2):
        for i in range(pages):
            at = i << 16
            world.run(f"map {lpid} {N + at:#x} {G + at:#x} 64K rwxRC", f"load {lpid} {N + at:#x}")
    return world


def left(world: World, pages: int, lpid: int = 1) -> list[bool]:
    return [world.shadow(lpid, N + (i << 16)) is not None for i in range(pages)]


@pytest.mark.parametrize("page_shift", [12, 16])
def test_17_a_range_of_pages_is_cleared_and_the_chains_stay(page_shift: int) -> None:
    world = mapped(4, page_shift)
    assert rpti(world, NESTED | TLB, N + 0x10000, N + 0x30000) == 0
    assert left(world, 4) == [True, False, False, True]
    assert left(world, 4, 2) == [True] * 4
    assert world.chain(G + 0x10000) == ("list", ((2, N + 0x10000), (1, N + 0x10000)))


@pytest.mark.parametrize(("pages", "gone"), [(33, 2), (34, 4)])
def test_17_more_than_33_pages_empty_the_whole_shadow(pages: int, gone: int) -> None:
    world = mapped(4)
    assert rpti(world, NESTED | TLB, N + 0x20000, N + 0x20000 + (pages << 16)) == 0
    assert left(world, 4) == [True] * (4 - gone) + [False] * gone
    assert [n.l1_lpid for n in world.vm.nested] == [1, 2]


def test_17_each_page_size_counts_for_itself() -> None:
    world = mapped(4)
    # 40 pages of 64K, 1 of 2M: the smaller size decides first.
    rpti(world, NESTED | TLB, N + 4 * M, N + 4 * M + (40 << 16), pages=4)
    assert left(world, 4) == [True] * 4
    rpti(world, NESTED | TLB, N + 4 * M, N + 4 * M + (40 << 16), pages=6)
    assert left(world, 4) == [False] * 4


@pytest.mark.parametrize(("pages", "size"), [(4, M), (8, 1 << 30)])
def test_17_a_large_page_takes_all_base_leaves_in_it(pages: int, size: int) -> None:
    world = mapped(4)
    assert rpti(world, NESTED | TLB, N + 0x20000, N + 0x30000, pages=pages) == 0
    assert left(world, 4) == [False] * 4


@pytest.mark.parametrize("kind", [NESTED | TLB, NESTED | PWC, NESTED | PAT, NESTED])
def test_17_everything_empties_the_shadow_whatever_the_kind(kind: int) -> None:
    world = mapped(2)
    assert rpti(world, kind, 0, ALL) == 0
    assert left(world, 2) == [False] * 2
    assert left(world, 2, 2) == [True] * 2


@pytest.mark.parametrize("kind", [NESTED | PWC, NESTED | PAT, NESTED | PWC | PAT, NESTED, TLB])
def test_17_no_tlb_or_no_nested_leaves_a_range_alone(kind: int) -> None:
    world = mapped(2)
    assert rpti(world, kind, N, N + 0x20000) == 0
    assert left(world, 2) == [True] * 2


def test_17_all_kinds_read_the_partition_table_entry_again() -> None:
    world = mapped(1)
    world.model.step(world.guest.tables.write_word(0x4_0010, 0))
    assert rpti(world, NESTED | TLB | PWC | PAT, N, N + 0x10000) == 0
    assert [n.l1_lpid for n in world.vm.nested] == [2]
    assert world.chain(G) == ("list", ((2, N), (1, N)))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"kind": 3, "start": N + 1, "end": N}, H_P5),
        ({"kind": 3, "start": N, "end": N + 1, "target": 2}, H_P2),
        ({"kind": 3, "start": N, "end": N + 1, "target": 5}, H_P2),
        ({"kind": 3, "start": N, "end": N + 1, "pages": 0}, H_P4),
        ({"kind": 3, "start": N, "end": N + 1, "pages": 16}, H_P4),
        ({"kind": 3, "start": N, "end": N + 1, "lpid": 77}, 0),
        ({"kind": 15, "start": 0, "end": ALL, "lpid": 77}, 0),
    ],
)
def test_17_what_is_refused_and_what_is_not_there(arguments: dict[str, int], error: int) -> None:
    world = mapped(2)
    assert rpti(world, **arguments) == error
    assert left(world, 2) == [True] * 2


def test_17_the_lpid_is_taken_as_32_bits() -> None:
    world = mapped(2)
    assert rpti(world, NESTED | TLB, 0, ALL, lpid=1 << 32 | 1) == 0
    assert left(world, 2) == [False] * 2


def test_17_a_range_that_wraps_around_never_ends() -> None:
    world = mapped(1)
    with pytest.raises(UnmodelledError, match="loops for ever"):
        rpti(world, NESTED | TLB, ALL - 0xFFFF, ALL)
