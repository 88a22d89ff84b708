"""Where a path stands: equal for equal runs, different as soon as one variable is."""

from collections.abc import Hashable, Sequence

import pytest

from nestscope.sim.explore.frames import place_of
from nestscope.sim.steps import Steps


class Thing:
    """An object of the world, with a name."""

    def __init__(self, name: str) -> None:
        self.name = name


def name_of(value: object) -> Hashable:
    return value.name if isinstance(value, Thing) else None


def inner(number: int) -> Steps[None]:
    yield "inside"
    yield f"inside {number}"


def outer(values: Sequence[int], thing: object = None) -> Steps[None]:
    yield "begin"
    for _ in values:
        yield "again"
    yield from inner(len(values))


def place(steps: int, values: Sequence[int], thing: object = None) -> Hashable:
    path = outer(values, thing)
    for _ in range(steps):
        next(path)
    return place_of(path, name_of)  # type: ignore[arg-type]


def test_runs_alike_stand_at_the_same_place() -> None:
    assert place(2, [1, 2]) == place(2, [1, 2])
    assert place(4, [1, 2], Thing("a")) == place(4, [1, 2], Thing("a"))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (place(1, [1, 2]), place(2, [1, 2])),  # another line
        (place(2, [1, 1]), place(3, [1, 1])),  # the same line, further in the loop
        (place(2, [1, 2]), place(2, [1, 3])),  # the same so far, another rest of the loop
        (place(4, [1, 2]), place(5, [1, 2])),  # further in the path that is waited for
        (place(2, [1], Thing("a")), place(2, [1], Thing("b"))),  # another object
        (place(1, []), place(3, [])),  # ended inside, then after
    ],
)
def test_another_place_is_told_apart(left: Hashable, right: Hashable) -> None:
    assert left != right


def test_an_object_without_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot tell two object apart"):
        place(1, [], object())
