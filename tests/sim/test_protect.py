"""What mprotect leaves read-only where the host asks for a dirty PTE, and what takes it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.facts import NO_HABITS, MemoryHabits
from nestscope.sim.fork import fork
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.steps import drain

from .test_hostmm import Listener
from .test_thp import BLOCK, START

PAGE = 1 << 16
FIRST = START >> 16
OLD = MemoryHabits(split_cleans=True, huge_stays_readonly=True)


def huge(habits: MemoryHabits = OLD) -> tuple[HostMemory, Listener]:
    """A huge page that was written to, and a base page behind it that was, too."""
    memory = HostMemory(16, habits=habits)
    memory.vmas.map(START, START + 2 * BLOCK)
    drain(memory.advise_huge(START, BLOCK, on=True))
    drain(memory.write(START, b"a"))
    drain(memory.write(START + BLOCK, b"b"))
    memory.notifier = listener = Listener(memory)
    return memory, listener


def protect_for_a_moment(memory: HostMemory, start: int, length: int) -> None:
    drain(memory.protect(start, length, writable=False))
    drain(memory.protect(start, length, writable=True))


def test_a_base_page_that_was_written_is_writable_again() -> None:
    memory, _ = huge()
    protect_for_a_moment(memory, START + BLOCK, PAGE)
    assert memory.private_frame(FIRST + 32)


@pytest.mark.parametrize("habits", [OLD, NO_HABITS])
def test_a_huge_page_is_writable_again_only_on_hosts_that_do_that(habits: MemoryHabits) -> None:
    memory, told = huge(habits)
    frame = memory.find(FIRST + 1)[0]
    protect_for_a_moment(memory, START, BLOCK)
    assert bool(memory.private_frame(FIRST + 1)) == (habits is NO_HABITS)
    told.calls.clear()
    drain(memory.write(START + 5 * PAGE, b"c"))
    assert memory.private_frame(FIRST + 1) == frame, "the first write takes all of it"
    assert told.calls == []


@pytest.mark.parametrize("habits", [OLD, NO_HABITS])
def test_a_part_of_a_huge_page_is_cut_out_clean_and_stays_read_only(habits: MemoryHabits) -> None:
    memory, told = huge(habits)
    protect_for_a_moment(memory, START + PAGE, PAGE)
    frame = memory.find(FIRST + 1)[0]
    assert bool(memory.private_frame(FIRST + 1)) == (habits is NO_HABITS)
    assert memory.private_frame(FIRST + 2), "it was not protected"
    told.calls.clear()
    drain(memory.write(START + PAGE, b"c"))
    assert memory.private_frame(FIRST + 1) == frame
    assert told.calls == []
    protect_for_a_moment(memory, START + PAGE, PAGE)
    assert memory.private_frame(FIRST + 1) == frame, "it is dirty now"


def test_a_write_through_a_writable_clean_pte_makes_it_dirty() -> None:
    memory, _ = huge()
    drain(memory.cut(START + PAGE, PAGE))
    drain(memory.write(START + 3 * PAGE, b"c"))
    protect_for_a_moment(memory, START, BLOCK)
    writable = [page - FIRST for page in range(FIRST, FIRST + 32) if memory.private_frame(page)]
    assert writable == [3]


def test_a_split_by_migration_keeps_what_is_dirty() -> None:
    memory, _ = huge()
    drain(memory.migrate(START, PAGE))
    protect_for_a_moment(memory, START, BLOCK)
    assert all(memory.private_frame(page) for page in range(FIRST, FIRST + 32))


def test_a_page_that_is_moved_stays_as_clean_and_as_read_only_as_it_was() -> None:
    memory, _ = huge()
    protect_for_a_moment(memory, START + PAGE, PAGE)
    drain(memory.migrate(START + PAGE, 2 * PAGE))
    assert not memory.private_frame(FIRST + 1)
    assert memory.private_frame(FIRST + 2)
    protect_for_a_moment(memory, START + PAGE, 2 * PAGE)
    assert not memory.private_frame(FIRST + 1)
    assert not memory.private_frame(FIRST + 2)


def test_a_fork_shares_it_and_the_copy_is_writable() -> None:
    memory, _ = huge()
    protect_for_a_moment(memory, START + PAGE, PAGE)
    old = memory.find(FIRST + 1)[0]
    drain(fork(memory))
    drain(memory.write(START + PAGE, b"c"))
    assert memory.private_frame(FIRST + 1) not in (0, old)
    protect_for_a_moment(memory, START + PAGE, PAGE)
    assert memory.private_frame(FIRST + 1)


def test_what_comes_after_a_page_that_went_is_fresh() -> None:
    memory, _ = huge()
    protect_for_a_moment(memory, START + PAGE, PAGE)
    drain(memory.discard(START + PAGE, PAGE))
    drain(memory.write(START + PAGE, b"c"))
    assert memory.private_frame(FIRST + 1)
    protect_for_a_moment(memory, START + 2 * PAGE, PAGE)
    drain(memory.collapse(START, 21))
    assert memory.private_frame(FIRST + 2)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "protect", "migrate", "split", "fork", "discard", "collapse"]),
        st.integers(0, 40),
        st.integers(1, 40),
    ),
    max_size=12,
)


@given(STEPS)
def test_a_write_always_goes_through_and_leaves_the_page_writable(
    steps: list[tuple[str, int, int]],
) -> None:
    """Whatever came before; and nothing is remembered of pages that are not there."""
    memory, _ = huge(MemoryHabits(split_cleans=True, huge_stays_readonly=True))
    for action, first, count in steps:
        at, length = START + first * PAGE, count * PAGE
        match action:
            case "write":
                assert drain(memory.write(at, b"x"))
                assert memory.private_frame(at >> 16)
            case "protect":
                protect_for_a_moment(memory, at, length)
            case "migrate":
                drain(memory.migrate(at, length))
            case "split":
                drain(memory.cut(at, length))
            case "fork":
                drain(fork(memory))
            case "discard":
                drain(memory.discard(at, length))
            case "collapse":
                drain(memory.collapse(START, 21))
        for known in (memory.shared, memory.readonly, memory.clean):
            assert all(memory.find(page)[0] > 1 for page in known)
