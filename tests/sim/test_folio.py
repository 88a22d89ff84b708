"""A huge page that comes apart: parts of zeros become the zero page where the kernel does that."""

import pytest

from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.facts import MemoryHabits
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.steps import drain

BLOCK = 1 << PMD_SHIFT
START = 1 << 40
WRITTEN, ZEROS, MOVED = 0, 3, 5


def split_by_migration(*, split_to_zero_page: bool) -> HostMemory:
    """Write to two parts of a huge page and to none of the others, then move one of the two."""
    memory = HostMemory(16, habits=MemoryHabits(split_to_zero_page=split_to_zero_page))
    memory.vmas.map(START, START + BLOCK)
    drain(memory.advise_huge(START, BLOCK, on=True))
    for part in (WRITTEN, MOVED):
        drain(memory.write(START + (part << 16), b"x"))
    drain(memory.migrate(START + (MOVED << 16), 1 << 16))
    return memory


@pytest.mark.parametrize("split_to_zero_page", [True, False])
def test_parts_that_were_written_stay_private_with_what_they_hold(
    split_to_zero_page: bool,
) -> None:
    memory = split_by_migration(split_to_zero_page=split_to_zero_page)
    for part in (WRITTEN, MOVED):
        assert memory.find((START >> 16) + part)[0] != ZERO_FRAME
        assert memory.read(START + (part << 16), 1) == b"x"


@pytest.mark.parametrize("split_to_zero_page", [True, False])
def test_a_part_of_zeros_is_the_zero_page_only_where_the_kernel_makes_it_so(
    split_to_zero_page: bool,
) -> None:
    memory = split_by_migration(split_to_zero_page=split_to_zero_page)
    frame, shift = memory.find((START >> 16) + ZEROS)
    assert shift == 0
    assert (frame == ZERO_FRAME) == split_to_zero_page


def test_a_part_of_zeros_that_is_to_be_moved_itself_becomes_the_zero_page() -> None:
    memory = HostMemory(16, habits=MemoryHabits(split_to_zero_page=True))
    memory.vmas.map(START, START + BLOCK)
    drain(memory.advise_huge(START, BLOCK, on=True))
    drain(memory.write(START, b"x"))
    drain(memory.migrate(START + (ZEROS << 16), 1 << 16))
    assert memory.find((START >> 16) + ZEROS) == (ZERO_FRAME, 0)
    assert memory.private_frame((START >> 16) + ZEROS) == 0
