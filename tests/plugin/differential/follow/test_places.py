"""Entry and exits of a function are read from its instructions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.differential.follow.places import find_places, leaves

FIRST = 0xC008_0000_0043_B590
NOP, MFLR, BLR = 0x6000_0000, 0x7C08_02A6, 0x4E80_0020
ADDI = 0x3863_0001  # addi r3,r3,1
BEQLR, BCTR, BL_SELF = 0x4D82_0020, 0x4E80_0420, 0x4800_0001


def test_the_nop_for_ftrace_is_the_entry_and_every_blr_an_exit() -> None:
    found = find_places([MFLR, NOP, ADDI, BLR, ADDI, BLR], FIRST)
    assert (found.entry, found.skip) == (FIRST + 4, True)
    assert found.exits == (FIRST + 12, FIRST + 20)


@pytest.mark.parametrize("text", [[MFLR, BL_SELF, NOP, BLR], [ADDI, NOP, BLR], [MFLR]])
def test_without_a_nop_before_the_prologue_the_local_entry_is_stepped_over(
    text: list[int],
) -> None:
    # The first one is traced by ftrace just now; behind the second one's addi r3 is another.
    found = find_places(text, FIRST)
    assert (found.entry, found.skip) == (FIRST, False)


@pytest.mark.parametrize("word", [BEQLR, BCTR, 0x4BFF_FFF0, 0x4182_0100])
def test_a_function_that_may_leave_otherwise_has_no_known_exits(word: int) -> None:
    assert find_places([MFLR, NOP, word, BLR], FIRST).exits == ()


@pytest.mark.parametrize("word", [0x4BFF_FFFC, 0x4082_FFFC, 0x4800_0005, 0x4082_0021, 0x4E80_0421])
def test_branches_inside_and_calls_do_not_leave(word: int) -> None:
    assert find_places([MFLR, NOP, word, BLR], FIRST).exits == (FIRST + 12,)


@given(st.integers(-0x80_0000, 0x7F_FFFF), st.integers(1, 1 << 20), st.integers(0, 1 << 20))
def test_a_branch_leaves_unless_its_target_is_inside(step: int, length: int, at: int) -> None:
    place, end = FIRST + 4 * (at % length), FIRST + 4 * length
    word = 18 << 26 | 4 * step & 0x03FF_FFFC
    assert leaves(word, place, FIRST, end) != (place + 4 * step in range(FIRST, end))
    assert not leaves(word | 1, place, FIRST, end)
