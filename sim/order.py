"""Operations in a directed order: each goes to its next place when its turn comes.

The turns go round from left to right. In its turn an operation goes to the next place
that is given for it, and there it is held; after its last place it goes to its end.
Exactly one operation moves at any time, so the order says everything.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from nestscope.sim.errors import UnmodelledError
from nestscope.sim.places import Place, Turn, is_at
from nestscope.sim.steps import Point, Steps

T = TypeVar("T")


def vcpus_of(turns: Sequence[Sequence[Turn]]) -> list[int]:
    """Return for each operation the number of its vCPU, and of the thread that it runs in.

    Whoever is held has one of its own; the others follow each other on the next one.
    """
    held = sum(bool(places) for places in turns)
    own = iter(range(held))
    return [next(own) if places else held for places in turns]


class Held(Generic[T]):
    """A path that is moved from place to place, until it has `ended`."""

    def __init__(self, path: Steps[T], turns: Sequence[Turn]) -> None:
        self._path = path
        self._turns = list(turns)
        self._point: Point | None = None
        self._results: list[T] = []

    @property
    def ended(self) -> bool:
        """Whether the path has come to its end."""
        return bool(self._results)

    def outcome(self) -> T:
        """Return what the path returned; it must have ended."""
        return self._results[0]

    def take_turn(self) -> bool:
        """Go to the next place, to the end after the last, or stay; say whether it moved.

        Raises:
            UnmodelledError: if it never comes to the place, or waits for one that is held.
        """
        goal = self._turns.pop(0) if self._turns else "the end"
        if goal is None:
            return False
        times = 0
        while True:
            point = self._next(goal)
            if point is None:
                if isinstance(goal, Place):
                    raise UnmodelledError(f"the operation ends before it comes to {goal}")
                return True
            # Whoever finds a lock taken comes to it once, though the path says so again.
            again, self._point = point is self._point and not isinstance(point, str), point
            if isinstance(goal, Place) and not again and is_at(point, goal):
                times += 1
                if times == goal.times:
                    return True

    def _next(self, goal: Place | str) -> Point | None:
        here = self._point
        if here is not None and not isinstance(here, str) and not here.ready():
            raise UnmodelledError(f"on its way to {goal} it waits for one that is held")
        try:
            return next(self._path)
        except StopIteration as end:
            self._results.append(end.value)
            return None


def run_in_order(
    paths: Sequence[Held[T]], after_turn: Callable[[], object] = lambda: None
) -> list[T]:
    """Let the paths take turns until all have ended; return what each returned.

    `after_turn` is called whenever one has moved: then all are held or have ended.

    Raises:
        UnmodelledError: if one cannot go on.
    """
    while not all(path.ended for path in paths):
        for path in paths:
            if not path.ended and path.take_turn():
                after_turn()
    return [path.outcome() for path in paths]
