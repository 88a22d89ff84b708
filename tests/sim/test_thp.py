"""Huge pages that faults bring: where, and that no notifier is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import AdviseHuge
from nestscope.sim.facts import MemoryHabits, Observations
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.layout import LAYOUT
from nestscope.sim.steps import drain

from .test_hostmm import Listener
from .world import World

BLOCK = 1 << PMD_SHIFT
START = 1 << 40


def allowed(page_shift: int = 16, blocks: int = 2) -> tuple[HostMemory, Listener]:
    memory = HostMemory(page_shift)
    memory.vmas.map(START, START + 4 * BLOCK)
    drain(memory.advise_huge(START, blocks * BLOCK, on=True))
    memory.notifier = listener = Listener(memory)
    return memory, listener


@pytest.mark.parametrize("page_shift", [12, 16])
def test_a_write_to_an_empty_block_brings_one_huge_page_and_tells_nobody(page_shift: int) -> None:
    memory, told = allowed(page_shift)
    drain(memory.write(START + 0x30000, b"x"))
    frame, shift = memory.find(START + 0x30000 >> page_shift)
    assert (shift, memory.pages, told.calls) == (PMD_SHIFT, {}, [])
    assert (frame - (0x30000 >> page_shift)) % (BLOCK >> page_shift) == 0
    assert memory.read(START + 0x30000, 2) == b"x\0"


def test_a_host_without_huge_pages_brings_base_pages() -> None:
    memory, _ = allowed()
    memory.habits = MemoryHabits(has_huge_pages=False)
    drain(memory.write(START, b"x"))
    assert memory.find(START >> 16)[1] == 0
    assert memory.find((START >> 16) + 1) == (0, 0)


def test_reading_an_empty_block_brings_a_private_huge_page() -> None:
    memory, _ = allowed()
    assert memory.read(START, 1) == b"\0"
    assert memory.private_frame(START >> 16) not in (0, ZERO_FRAME)


def test_beyond_what_was_allowed_there_are_base_pages() -> None:
    memory, _ = allowed()
    memory.read(START + 2 * BLOCK, 1)
    assert memory.find(START + 2 * BLOCK >> 16) == (ZERO_FRAME, 0)


def test_a_block_that_reaches_out_of_its_vma_gets_no_huge_page() -> None:
    memory, _ = allowed()
    drain(memory.advise_huge(START + 0x10000, 0x10000, on=False))
    memory.read(START, 1)
    assert memory.find(START >> 16) == (ZERO_FRAME, 0)


def test_a_block_that_once_had_base_pages_keeps_their_table() -> None:
    memory, _ = allowed()
    drain(memory.advise_huge(START, BLOCK, on=False))
    memory.read(START, 1)
    drain(memory.advise_huge(START, BLOCK, on=True))
    drain(memory.discard(START, BLOCK))
    memory.read(START, 1)
    assert memory.find(START >> 16) == (ZERO_FRAME, 0)


def test_a_block_whose_huge_page_went_gets_one_again_but_not_after_a_split() -> None:
    memory, _ = allowed()
    memory.read(START, 1)
    drain(memory.discard(START, BLOCK))
    memory.read(START, 1)
    assert memory.find(START >> 16)[1] == PMD_SHIFT
    drain(memory.discard(START, 0x10000))
    memory.read(START, 1)
    assert memory.find(START >> 16) == (ZERO_FRAME, 0)


def test_where_there_is_no_memory_for_a_huge_page_a_base_page_comes() -> None:
    memory, _ = allowed()
    memory.huge_refused = 1
    memory.read(START, 1)
    memory.read(START + BLOCK, 1)
    assert [memory.find(START + at >> 16)[1] for at in (0, BLOCK)] == [0, PMD_SHIFT]


def test_a_refusal_that_no_fault_met_is_not_passed_over() -> None:
    world = World()
    event = AdviseHuge(LAYOUT.data, 0x10000, on=False)
    with pytest.raises(UnmodelledError, match="no memory for a huge page"):
        world.model.step(event, Observations(huge_refused=1))


@given(
    st.lists(st.tuples(st.integers(0, 63), st.sampled_from(["read", "write", "drop", "on", "off"])))
)
def test_a_page_is_never_in_a_table_and_in_a_huge_page(program: list[tuple[int, str]]) -> None:
    memory, _ = allowed()
    plain = bytearray(64)
    for page, what in program:
        hva = START + (page << 16)
        match what:
            case "read":
                assert memory.read(hva, 1) == plain[page : page + 1]
            case "write":
                plain[page] = page + 1
                drain(memory.write(hva, plain[page : page + 1]))
            case "drop":
                plain[page] = 0
                drain(memory.discard(hva, 1 << 16))
            case _:
                drain(memory.advise_huge(hva & -BLOCK, BLOCK, on=what == "on"))
        huge = {START + i * BLOCK >> PMD_SHIFT for i in range(2)} & set(memory.huge.get(21, ()))
        assert not huge & {page >> 5 for page in memory.pages}
        assert not huge & memory.tables
