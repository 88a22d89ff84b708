"""What is compared of an event's result, and what the model is told of it."""

from nestscope.plugin.differential.observe import compare_results, observations
from nestscope.sim.constants import EINVAL, U64
from nestscope.sim.events import Age, MapHugetlb, Result
from nestscope.sim.facts import NOTHING_UNUSUAL

REFUSED = Result(ret=-EINVAL & U64)


def test_whether_a_page_was_young_is_not_told_but_an_error_is() -> None:
    age = Age(0xA00000, 0x10000)
    assert compare_results(age, Result(ret=1), Result()) == []
    assert compare_results(age, REFUSED, REFUSED) == []
    assert len(compare_results(age, REFUSED, Result())) == 1
    assert len(compare_results(age, Result(ret=1), REFUSED)) == 1


def test_a_host_that_has_no_hugetlbfs_pages_says_so() -> None:
    event = MapHugetlb(0xA00000, 0x200000)
    assert observations(event, REFUSED).refused == EINVAL
    assert observations(event, Result()) is NOTHING_UNUSUAL
