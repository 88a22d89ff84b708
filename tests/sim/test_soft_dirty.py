"""clear_refs: what becomes read-only, what mprotect then leaves so, and what ends it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.constants import EINVAL, ERANGE, U64
from nestscope.sim.facts import NO_HABITS, MemoryHabits
from nestscope.sim.fork import fork
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.soft_dirty import clear_refs
from nestscope.sim.steps import drain

from .test_hostmm import Listener
from .test_protect import huge, protect_for_a_moment
from .test_thp import BLOCK, START

PAGE = 1 << 16
FIRST = START >> 16
BASE = FIRST + 32
"""The base page behind the huge one."""


def cleared(habits: MemoryHabits = NO_HABITS) -> tuple[HostMemory, Listener]:
    """A huge page and a base page, written to before their soft-dirty bits were cleared."""
    memory, told = huge(habits)
    assert drain(clear_refs(memory, 4)) == 0
    return memory, told


def test_all_addresses_are_told_at_once_and_all_pages_read_only() -> None:
    memory, told = cleared()
    assert told.calls == [(0, U64)]
    assert not memory.private_frame(FIRST) and not memory.private_frame(BASE)


def test_the_next_write_takes_the_page_as_it_is() -> None:
    memory, told = cleared()
    frames = [memory.find(page)[0] for page in (FIRST, BASE)]
    told.calls.clear()
    drain(memory.write(START + 7 * PAGE, b"x"))
    drain(memory.write(START + BLOCK, b"x"))
    assert [memory.private_frame(page) for page in (FIRST, BASE)] == frames
    assert told.calls == []


@pytest.mark.parametrize("what", [1, 2, 3, 5])
def test_other_kinds_do_nothing_that_a_guest_sees(what: int) -> None:
    memory, told = huge()
    assert drain(clear_refs(memory, what)) == 0
    assert memory.private_frame(FIRST) and memory.private_frame(BASE)
    assert told.calls == []


@pytest.mark.parametrize(
    ("what", "error"), [(0, EINVAL), (6, EINVAL), ((1 << 31) - 1, EINVAL), (1 << 31, ERANGE)]
)
def test_other_numbers_are_refused(what: int, error: int) -> None:
    memory, told = huge()
    assert drain(clear_refs(memory, what)) == -error
    assert told.calls == []


def test_mprotect_makes_nothing_writable_whose_write_is_to_be_noticed() -> None:
    memory, _ = cleared()
    protect_for_a_moment(memory, START, 2 * BLOCK)
    assert not memory.private_frame(FIRST) and not memory.private_frame(BASE)
    drain(memory.write(START + BLOCK, b"x"))
    protect_for_a_moment(memory, START, 2 * BLOCK)
    assert memory.private_frame(BASE), "it is soft-dirty now"
    assert not memory.private_frame(FIRST)


def test_memory_that_grew_is_soft_dirty_as_a_whole() -> None:
    memory, _ = cleared()
    memory.vmas.map(START + 2 * BLOCK, START + 3 * BLOCK)
    protect_for_a_moment(memory, START + BLOCK, PAGE)
    assert memory.private_frame(BASE)
    protect_for_a_moment(memory, START, BLOCK)
    assert not memory.private_frame(FIRST), "advised otherwise, it is a VMA of its own"


def test_where_vmas_merge_the_one_that_changed_decides() -> None:
    memory = HostMemory(16)
    memory.vmas.map(START, START + BLOCK)
    drain(memory.protect(START, BLOCK, writable=False))
    drain(clear_refs(memory, 4))
    memory.vmas.map(START + BLOCK, START + 2 * BLOCK)
    assert [vma.soft_dirty for vma in memory.vmas.vmas] == [False, True]
    drain(memory.protect(START, BLOCK, writable=True))
    assert [vma.soft_dirty for vma in memory.vmas.vmas] == [False]


@pytest.mark.parametrize("sets", [True, False])
def test_a_split_makes_its_parts_soft_dirty_only_on_hosts_that_do_that(sets: bool) -> None:
    memory, _ = cleared(MemoryHabits(split_sets_soft_dirty=sets))
    drain(memory.cut(START + PAGE, PAGE))
    assert not memory.private_frame(FIRST), "read-only nevertheless"
    protect_for_a_moment(memory, START, BLOCK)
    assert bool(memory.private_frame(FIRST)) == sets


@pytest.mark.parametrize("sets", [True, False])
def test_a_moved_page_is_soft_dirty_only_on_hosts_that_do_that(sets: bool) -> None:
    memory, _ = cleared(MemoryHabits(migration_sets_soft_dirty=sets))
    drain(memory.migrate(START + BLOCK, PAGE))
    drain(memory.migrate(START, PAGE))
    assert not memory.private_frame(BASE)
    protect_for_a_moment(memory, START, 2 * BLOCK)
    writable = {bool(memory.private_frame(page)) for page in (BASE, FIRST, FIRST + 5)}
    assert writable == {sets}, "parts of the huge page have passed a migration, too"


def test_a_clean_page_is_not_made_soft_dirty_by_moving_it() -> None:
    habits = MemoryHabits(split_cleans=True, migration_sets_soft_dirty=True)
    memory, _ = huge(habits)
    drain(memory.cut(START + PAGE, PAGE))
    drain(clear_refs(memory, 4))
    drain(memory.migrate(START, PAGE))
    assert FIRST in memory.soft_clean


def test_what_fork_shares_is_copied_or_taken_as_ever() -> None:
    memory, _ = huge()
    drain(fork(memory))
    drain(clear_refs(memory, 4))
    assert BASE not in memory.readonly
    drain(memory.write(START + BLOCK, b"x"))
    assert memory.private_frame(BASE)
    protect_for_a_moment(memory, START + BLOCK, PAGE)
    assert memory.private_frame(BASE)


def test_hugetlbfs_memory_is_passed_over() -> None:
    memory = HostMemory(16)
    memory.vmas.map(START, START + BLOCK)
    drain(memory.map_hugetlb(START, BLOCK, 21))
    drain(memory.write(START, b"x"))
    drain(clear_refs(memory, 4))
    assert memory.private_frame(FIRST)


@given(
    st.lists(
        st.tuples(st.sampled_from(["clear", "write", "migrate", "cut", "fork"]), st.integers(0, 40))
    ),
    st.booleans(),
)
def test_after_clear_refs_nothing_is_writable_until_it_is_written(
    steps: list[tuple[str, int]], sets: bool
) -> None:
    memory, _ = huge(MemoryHabits(split_sets_soft_dirty=sets, migration_sets_soft_dirty=not sets))
    for action, part in steps:
        at = START + part * PAGE
        match action:
            case "clear":
                drain(clear_refs(memory, 4))
                for page in range(FIRST, FIRST + 64):
                    assert not memory.private_frame(page)
            case "write":
                drain(memory.write(at, b"x"))
                assert memory.private_frame(at >> 16)
                assert at >> 16 not in memory.soft_clean
            case "migrate":
                drain(memory.migrate(at, PAGE))
            case "cut":
                drain(memory.cut(at, PAGE))
            case "fork":
                drain(fork(memory))
