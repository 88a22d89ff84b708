"""A host whose device tree names no AP encodings knows 4K and 64K pages only."""

import pytest

from nestscope.sim.constants import H_P4, H_PARAMETER, H_SUCCESS

from .world import PTCR, World

N = 0x1000000
SIZES_4K_64K = frozenset({12, 16})


def world(shifts: frozenset[int]) -> World:
    made = World(start=False, tlbie_shifts=shifts)  # type: ignore[arg-type]
    made.run(PTCR, "map 1 0x1000000 0x900000 64K rwxRC", "load 1 0x1000000")
    return made


@pytest.mark.parametrize(("ap", "known"), [(0, True), (5, True), (1, False), (2, False)])
def test_a_tlbie_of_an_unknown_page_size_is_refused_and_clears_nothing(
    ap: int, known: bool
) -> None:
    host = world(SIZES_4K_64K)
    result = host.run(f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap={ap} epn=0x1000")
    assert result.ret == (H_SUCCESS if known else H_PARAMETER)
    assert (host.shadow(1, N) is None) == known


@pytest.mark.parametrize(("pages", "known"), [(1, True), (2, True), (4, False), (8, False)])
def test_h_rpt_invalidate_skips_an_unknown_page_size(pages: int, known: bool) -> None:
    host = world(SIZES_4K_64K)
    line = f"rpti lpid=1 target=1 type=0x3 pages={pages:#x} start={N:#x} end={N + 0x10000:#x}"
    assert host.run(line).ret == (H_SUCCESS if known else H_P4)
    assert (host.shadow(1, N) is None) == known
