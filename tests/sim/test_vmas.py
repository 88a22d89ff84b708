"""VMAs: where they are cut, the range of a huge page is split."""

from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.vmas import BLOCK, Change, Vma, Vmas

PAGE = 1 << 16
START = 1 << 40


def splits(changes: list[Change]) -> list[int]:
    return [block for change in changes for block in change.splits]


def mapped(blocks: int = 4) -> Vmas:
    vmas = Vmas()
    vmas.map(START, START + blocks * BLOCK)
    return vmas


def test_a_cut_inside_a_block_splits_it_and_one_at_its_start_does_not() -> None:
    assert splits(mapped().protect(START, START + PAGE, writable=False)) == [START]
    assert splits(mapped().protect(START, START + BLOCK, writable=False)) == []
    assert splits(mapped().protect(START + BLOCK, START + BLOCK + PAGE, writable=False)) == [
        START + BLOCK
    ]


def test_a_cut_on_each_side_in_one_block_splits_it_once() -> None:
    """After the first cut the VMA begins there, and the block is no longer all in it."""
    assert mapped().cut(START + PAGE, START + 2 * PAGE) == [START]


def test_cuts_in_two_blocks_split_both() -> None:
    assert mapped().cut(START + PAGE, START + BLOCK + PAGE) == [START, START + BLOCK]


def test_a_block_that_reaches_out_of_its_vma_is_not_split() -> None:
    vmas = Vmas()
    vmas.map(START + PAGE, START + BLOCK)
    assert splits(vmas.protect(START + PAGE, START + 2 * PAGE, writable=False)) == []


def test_what_is_so_already_is_not_cut() -> None:
    vmas = mapped()
    assert splits(vmas.protect(START, START + PAGE, writable=True)) == []
    vmas.protect(START, START + PAGE, writable=False)
    changed = vmas.protect(START, START + 2 * PAGE, writable=False)
    assert [(change.start, change.end) for change in changed] == [(START + PAGE, START + 2 * PAGE)]


def test_neighbours_that_are_alike_again_are_one_vma() -> None:
    vmas = mapped()
    vmas.protect(START, START + PAGE, writable=False)
    assert len(vmas.vmas) == 2
    assert splits(vmas.protect(START, START + PAGE, writable=True)) == []
    assert vmas.vmas == [Vma(START, START + 4 * BLOCK)]


def test_what_came_from_elsewhere_never_merges() -> None:
    vmas = mapped()
    assert splits(vmas.replace(START + BLOCK, START + BLOCK + PAGE, origin=1)) == [START + BLOCK]
    vmas.replace(START + BLOCK + PAGE, START + BLOCK + 2 * PAGE, origin=2)
    assert [vma.origin for vma in vmas.vmas] == [0, 1, 2, 0]


def test_memory_that_is_there_is_not_mapped_again() -> None:
    vmas = mapped(1)
    vmas.protect(START, START + PAGE, writable=False)
    vmas.map(START - PAGE, START + 2 * BLOCK)
    assert [(vma.start, vma.writable) for vma in vmas.vmas] == [
        (START - PAGE, True),
        (START, False),
        (START + PAGE, True),
    ]
    assert vmas.vmas[-1].end == START + 2 * BLOCK


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, 63), st.booleans()), max_size=8))
def test_each_page_has_the_last_permission_it_was_given(
    changes: list[tuple[int, int, bool]],
) -> None:
    vmas = mapped(2)
    wanted = [True] * 64
    for first, length, writable in changes:
        last = min(first + length, 64)
        vmas.protect(START + first * PAGE, START + last * PAGE, writable=writable)
        wanted[first:last] = [writable] * (last - first)
    held = [
        vma.writable
        for page in range(64)
        for vma in vmas.overlapping(START + page * PAGE, START + (page + 1) * PAGE)
    ]
    assert held == wanted
    assert all(not one.merges(other) for one, other in zip(vmas.vmas, vmas.vmas[1:], strict=False))
