"""All interleavings of a few kernel paths (`sim.steps`), each state visited once.

A path is a generator, which cannot be copied. So the explorer goes back by running the
whole schedule again in a new world: a schedule says which path runs next, section by
section, and the model is deterministic.

States are told apart by the world and by where each path stands (`frames`). Two runs that
agree in both go on alike, and only one of them is followed.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from nestscope.sim.errors import UnmodelledError
from nestscope.sim.explore.frames import place_of
from nestscope.sim.steps import Mutex, Point, Steps


class World(Protocol):
    """What the paths work on."""

    def fingerprint(self) -> Hashable:
        """Return a value that is the same for equal worlds, whatever run they came from."""
        ...

    def name_of(self, value: object) -> Hashable:
        """Return a name for an object that a path may hold, None for any other."""
        ...


W = TypeVar("W", bound=World)


@dataclass(frozen=True)
class Task(Generic[W]):
    """One of the concurrent paths: a name for people, and how it begins.

    The path yields the name of its first section before it does anything.
    """

    name: str
    begin: Callable[[W], Steps[object]]


class Section(NamedTuple):
    """A critical section that ran: whose, and what it is called."""

    task: str
    name: str

    def __str__(self) -> str:
        return f"{self.task}: {self.name}"


History = tuple[Section, ...]

MAX_STATES = 100_000
"""States of one exploration; a pair of kernel paths has some hundreds."""


@dataclass
class Exploration:
    """How much was seen.

    `states`: different ones. `interleavings`: schedules from begin to end that they
    stand for. `stuck`: schedules after which no path can go on though one is not done.
    `unmodelled`: schedules that led where the model has no specification, and why.
    """

    states: int = 0
    interleavings: int = 0
    stuck: list[History] = field(default_factory=list)
    unmodelled: list[tuple[History, str]] = field(default_factory=list)


class Run(Generic[W]):
    """One world and the tasks on it, driven section by section."""

    def __init__(self, world: W, tasks: Sequence[Task[W]]) -> None:
        self.world = world
        self.tasks = tasks
        self.schedule: tuple[int, ...] = ()
        self.history: History = ()
        self.ended = False
        self._paths = [task.begin(world) for task in tasks]
        self._points: list[Point | None] = [next(path) for path in self._paths]

    def point(self, number: int) -> Point | None:
        """Return the point that a task has come to, None at its end."""
        return self._points[number]

    def enabled(self) -> list[int]:
        """Return the tasks that can go on now."""
        if self.ended:
            return []
        return [
            number
            for number, point in enumerate(self._points)
            if point is not None and (isinstance(point, str) or point.ready())
        ]

    def is_done(self) -> bool:
        """Return whether every task has come to its end."""
        return all(point is None for point in self._points)

    def is_stuck(self) -> bool:
        """Return whether no task can go on although one has not come to its end."""
        return not self.is_done() and not self.ended and not self.enabled()

    def step(self, number: int) -> None:
        """Run the next section of a task.

        Raises:
            UnmodelledError: if the section has no specification. The run has ended then.
        """
        point = self._points[number]
        self.schedule += (number,)
        self.history += (Section(self.tasks[number].name, _name_of(point)),)
        try:
            self._points[number] = next(self._paths[number])
        except StopIteration:
            self._points[number] = None
        except UnmodelledError:
            self.ended = True
            raise

    def key(self) -> Hashable:
        """Return what tells this state from others."""
        places = tuple(place_of(path, self.world.name_of) for path in self._paths)
        return self.world.fingerprint(), places, self.ended


def _name_of(point: Point | None) -> str:
    if isinstance(point, str):
        return point
    return f"take {point.name}" if isinstance(point, Mutex) else f"wait: {type(point).__name__}"


Visit = Callable[[Run[W]], bool]
"""Called in each state when it is first reached; False ends the run there."""


def explore(
    make_world: Callable[[], W],
    tasks: Sequence[Task[W]],
    visit: Visit[W],
    max_states: int = MAX_STATES,
) -> Exploration:
    """Run every interleaving of the tasks' sections.

    `make_world` returns the same world again and again, in a new copy.

    Raises:
        UnmodelledError: if there are more than `max_states` states.
    """
    found = Exploration()
    numbers: dict[Hashable, int] = {}
    nexts: dict[Hashable, list[Hashable]] = {}
    pending: list[tuple[int, ...]] = [()]
    root: Hashable = None
    while pending:
        schedule = pending.pop()
        run = Run(make_world(), tasks)
        for number in schedule[:-1]:
            run.step(number)
        parent: Hashable = None
        ahead: int | None = None
        if schedule:
            parent, ahead = number_of(run, numbers), schedule[-1]
        else:
            root = number_of(run, numbers)
        while True:
            if ahead is not None:
                try:
                    run.step(ahead)
                except UnmodelledError as error:
                    found.unmodelled.append((run.history, str(error)))
                nexts[parent].append(number_of(run, numbers))
            here = number_of(run, numbers)
            if here in nexts:
                break
            nexts[here] = []
            if len(nexts) > max_states:
                raise UnmodelledError(f"more than {max_states} states: explore fewer tasks")
            if not run.ended and not visit(run):
                run.ended = True
            if run.is_stuck():
                found.stuck.append(run.history)
            enabled = run.enabled()
            if not enabled:
                break
            pending += [(*run.schedule, number) for number in reversed(enabled[1:])]
            parent, ahead = here, enabled[0]
    found.states = len(nexts)
    found.interleavings = count_paths(nexts, root)
    return found


def number_of(run: Run[W], numbers: dict[Hashable, int]) -> int:
    """Return the number of the state that a run is in; a new one for a new state."""
    return numbers.setdefault(run.key(), len(numbers))


def count_paths(nexts: dict[Hashable, list[Hashable]], root: Hashable) -> int:
    """Return how many paths lead from `root` to an end, in a graph without cycles."""
    counts: dict[Hashable, int] = {}
    stack = [root]
    while stack:
        here = stack[-1]
        waiting = [child for child in nexts[here] if child not in counts]
        if waiting:
            stack += waiting
            continue
        counts[here] = sum(counts[child] for child in nexts[here]) or 1
        stack.pop()
    return counts[root]
