"""What is taken from an observed result, and what is compared."""

import pytest

from nestscope.plugin.differential.observe import compare_results
from nestscope.sim.constants import U64
from nestscope.sim.events import Age, Result

AGE = Age(0x900000, 0x10000)
EBUSY = -16 & U64


@pytest.mark.parametrize("young", [0, 1])
def test_whether_a_page_was_young_is_not_compared(young: int) -> None:
    assert compare_results(AGE, Result(ret=young), Result(ret=0)) == []


def test_ageing_that_the_host_could_not_do_is_a_difference() -> None:
    (found,) = compare_results(AGE, Result(ret=1), Result(ret=EBUSY))
    assert (found.path, found.expected, found.observed) == ("result.age.ret", "0x0", hex(EBUSY))
