"""After a fork: pages are read-only, whoever is told, and what the next write does."""

import pytest

from nestscope.sim.facts import MemoryHabits
from nestscope.sim.fork import fork
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.steps import drain

from .test_hostmm import Listener
from .test_thp import BLOCK, START, allowed

PAGE = 1 << 16
FIRST = START >> 16


def written() -> tuple[HostMemory, Listener]:
    """One private page behind the blocks where huge pages are allowed."""
    memory, told = allowed()
    drain(memory.write(START + 2 * BLOCK, b"a"))
    return memory, told


def test_every_vma_with_a_private_page_is_told_and_no_other() -> None:
    memory, told = written()
    memory.vmas.map(START + 8 * BLOCK, START + 9 * BLOCK)
    memory.read(START + 8 * BLOCK, 1)
    drain(fork(memory))
    assert told.calls == [(START + 2 * BLOCK, START + 4 * BLOCK)]
    drain(memory.write(START + 8 * BLOCK, b"b"))
    drain(memory.discard(START + 8 * BLOCK, PAGE))
    told.calls.clear()
    drain(fork(memory))
    assert told.calls[1:] == [(START + 8 * BLOCK, START + 9 * BLOCK)]


def test_a_page_is_read_only_until_it_is_written_and_stays_in_its_frame() -> None:
    memory, told = written()
    page = FIRST + 2 * 32
    frame = memory.find(page)[0]
    drain(fork(memory))
    told.calls.clear()
    assert memory.private_frame(page) == 0
    assert memory.read(START + 2 * BLOCK, 1) == b"a"
    assert drain(memory.write(START + 2 * BLOCK, b"b"))
    assert (memory.private_frame(page), told.calls) == (frame, [])


def test_a_huge_page_is_written_again_as_a_whole() -> None:
    memory, told = allowed()
    drain(memory.write(START, b"a"))
    drain(fork(memory))
    told.calls.clear()
    drain(memory.write(START + PAGE, b"b"))
    assert memory.private_frame(FIRST) and memory.private_frame(FIRST + 31)
    assert told.calls == []


def test_a_part_of_a_split_huge_page_is_copied_with_what_it_held() -> None:
    memory, told = allowed()
    drain(memory.write(START + PAGE, b"a"))
    drain(memory.split(START, 21))
    old = memory.find(FIRST + 1)[0]
    drain(fork(memory))
    told.calls.clear()
    drain(memory.write(START + PAGE + 1, b"b"))
    assert told.calls == [(START + PAGE, START + 2 * PAGE)]
    assert memory.find(FIRST + 1)[0] != old
    assert memory.read(START + PAGE, 2) == b"ab"
    assert memory.private_frame(FIRST) == 0


def test_protection_is_kept_apart_and_a_moved_page_stays_read_only() -> None:
    memory, _ = written()
    page = FIRST + 64
    drain(fork(memory))
    drain(memory.protect(page << 16, PAGE, writable=False))
    assert not drain(memory.write(page << 16, b"b"))
    drain(memory.protect(page << 16, PAGE, writable=True))
    assert memory.private_frame(page) == 0
    drain(memory.migrate(page << 16, PAGE))
    assert memory.private_frame(page) == 0


def test_a_page_that_went_or_was_replaced_is_shared_no_longer() -> None:
    memory, _ = written()
    page = FIRST + 64
    drain(fork(memory))
    drain(memory.discard(page << 16, PAGE))
    assert memory.shared == set()
    drain(memory.write(page << 16, b"c"))
    drain(fork(memory))
    drain(memory.remap(page << 16, PAGE))
    assert memory.private_frame(page) not in (0, ZERO_FRAME)


def two_parts_after_a_fork(habits: MemoryHabits) -> tuple[HostMemory, Listener, list[int]]:
    """Two base pages of a split huge page, the second with "a", and their frames."""
    memory, told = allowed()
    memory.habits = habits
    drain(memory.write(START + PAGE, b"a"))
    drain(memory.split(START, 21))
    drain(memory.discard(START + 2 * PAGE, BLOCK - 2 * PAGE))
    frames = [memory.find(FIRST + part)[0] for part in (0, 1)]
    drain(fork(memory))
    told.calls.clear()
    return memory, told, frames


@pytest.mark.parametrize("reuses", [True, False])
def test_the_last_part_of_a_huge_page_is_reused_only_on_hosts_that_do_that(reuses: bool) -> None:
    memory, told, old = two_parts_after_a_fork(MemoryHabits(reuses_last_part=reuses))
    drain(memory.write(START, b"b"))
    assert memory.find(FIRST)[0] != old[0], "its sibling holds the folio"
    told.calls.clear()
    drain(memory.write(START + PAGE + 1, b"c"))
    assert (memory.find(FIRST + 1)[0] == old[1]) == reuses
    assert told.calls == ([] if reuses else [(START + PAGE, START + 2 * PAGE)])
    assert memory.read(START + PAGE, 2) == b"ac"


@pytest.mark.parametrize("reuses", [True, False])
def test_parts_but_the_last_are_reused_only_on_hosts_that_do_that(reuses: bool) -> None:
    memory, told, old = two_parts_after_a_fork(MemoryHabits(reuses_parts=reuses))
    drain(memory.write(START, b"b"))
    assert (memory.find(FIRST)[0] == old[0]) == reuses
    assert told.calls == ([] if reuses else [(START, START + PAGE)])
    drain(memory.discard(START, PAGE))
    told.calls.clear()
    drain(memory.write(START + PAGE + 1, b"c"))
    assert memory.find(FIRST + 1)[0] != old[1], "the last one is copied"
    assert told.calls == [(START + PAGE, START + 2 * PAGE)]
    assert memory.read(START + PAGE, 2) == b"ac"
