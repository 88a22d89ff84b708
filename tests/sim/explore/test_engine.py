"""The explorer on toy paths, where every interleaving can be listed by hand."""

from collections.abc import Hashable
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nestscope.sim.errors import UnmodelledError
from nestscope.sim.explore.engine import Exploration, Run, Task, explore
from nestscope.sim.steps import Mutex, Steps


class Toy:
    """A counter, a lock and the order in which sections ran."""

    def __init__(self) -> None:
        self.value = 0
        self.lock = Mutex("lock")
        self.trail = ""

    def fingerprint(self) -> Hashable:
        return self.value, self.lock.held, self.trail

    def name_of(self, value: object) -> Hashable:
        return type(value).__name__ if isinstance(value, Toy | Mutex | range) else None


def writes(letters: str) -> Task[Toy]:
    """A path that leaves a letter in each of its sections."""

    def path(toy: Toy) -> Steps[None]:
        for letter in letters:
            yield letter
            toy.trail += letter

    return Task(letters, path)


def adds(name: str, *, locked: bool) -> Task[Toy]:
    """A path that reads in one section and writes in the next, with or without the lock."""

    def path(toy: Toy) -> Steps[None]:
        yield "begin"
        if locked:
            while toy.lock.held:
                yield toy.lock
            toy.lock.held = True
        value = toy.value
        yield "write"
        toy.value = value + 1
        toy.lock.held = False

    return Task(name, path)


def ends(*tasks: Task[Toy]) -> tuple[set[str], set[int], Exploration]:
    """Explore; return the trails and values of the states in which all are done."""
    trails: set[str] = set()
    values: set[int] = set()

    def visit(run: Run[Toy]) -> bool:
        if not run.enabled() and not run.is_stuck():
            trails.add(run.world.trail)
            values.add(run.world.value)
        return True

    found = explore(Toy, tasks, visit)
    return trails, values, found


def merges(left: str, right: str) -> set[str]:
    """Every merge of two words, said by choosing the places of the left one."""
    size = len(left) + len(right)
    result = set()
    for places in combinations(range(size), len(left)):
        rest = iter(right)
        mine = iter(left)
        result.add("".join(next(mine) if at in places else next(rest) for at in range(size)))
    return result


@given(some.integers(0, 4), some.integers(1, 4))
def test_every_interleaving_of_two_paths_is_run(left: int, right: int) -> None:
    one, two = "abcd"[:left] or "a", "wxyz"[:right]
    trails, _, found = ends(writes(one), writes(two))
    assert trails == merges(one, two)
    assert found.interleavings == comb(len(one) + len(two), len(one))


def test_every_interleaving_of_three_paths_is_run() -> None:
    trails, _, found = ends(writes("ab"), writes("x"), writes("1"))
    assert len(trails) == found.interleavings == 12
    assert {"abx1", "1xab", "a1xb"} < trails


def test_equal_states_are_followed_once_and_all_schedules_counted() -> None:
    """Sections that change nothing leave one state for each pair of positions."""

    def idle(_: Toy) -> Steps[None]:
        for _step in range(6):
            yield "look"  # the path keeps its place in a variable and in an iterator

    found = ends(Task("a", idle), Task("b", idle))[2]
    assert found.states == 7 * 7
    assert found.interleavings == comb(12, 6)


def test_a_lost_update_is_found_without_the_lock_and_not_with_it() -> None:
    unlocked = ends(adds("a", locked=False), adds("b", locked=False))[1]
    locked = ends(adds("a", locked=True), adds("b", locked=True))[1]
    assert (unlocked, locked) == ({1, 2}, {2})


def test_a_path_that_saw_another_world_is_not_taken_for_the_same() -> None:
    """Both orders lead to one world, but the reader carries what it saw."""

    def flips(toy: Toy) -> Steps[None]:
        for value in (1, 0):
            yield f"set {value}"
            toy.value = value

    def reads(toy: Toy) -> Steps[None]:
        yield "read"
        seen = toy.value
        yield "tell"
        toy.trail += str(seen)

    assert ends(Task("flips", flips), Task("reads", reads))[0] == {"0", "1"}


def test_paths_that_wait_for_each_other_are_reported_as_stuck() -> None:
    def holds(toy: Toy) -> Steps[None]:
        yield "take"
        toy.lock.held = True

    found = ends(Task("holds", holds), adds("adds", locked=True))[2]
    assert [[str(section) for section in history] for history in found.stuck] == [
        ["holds: take", "adds: begin"]
    ]


def test_a_visitor_ends_a_run() -> None:
    seen: list[str] = []

    def visit(run: Run[Toy]) -> bool:
        seen.append(run.world.trail)
        return not run.world.trail.endswith("x")

    found = explore(Toy, [writes("ab"), writes("x")], visit)
    assert sorted(seen) == ["", "a", "ab", "abx", "ax", "x"]
    assert found.interleavings == 3


def test_what_the_model_does_not_cover_is_told_with_its_schedule() -> None:
    def refuses(toy: Toy) -> Steps[None]:
        yield "look"
        if toy.trail:
            raise UnmodelledError("a trail")

    found = ends(writes("a"), Task("refuses", refuses))[2]
    ((history, why),) = found.unmodelled
    assert [str(section) for section in history] == ["a: a", "refuses: look"]
    assert why.endswith("a trail")


def test_too_many_states_are_refused() -> None:
    with pytest.raises(UnmodelledError, match="more than 10 states"):
        explore(Toy, [writes("abcd"), writes("wxyz")], lambda _: True, max_states=10)
