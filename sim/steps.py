"""Kernel paths as steps, so that two of them can be interleaved.

A path is a generator. What runs between two `yield`s is one critical section of
the kernel (under `mmu_lock`, or outside any lock but at once); whoever drives the
path may let another one run at each `yield`. What is yielded is

- a `str`: the name of the section that comes next. The path can go on at any time;
- a `Waitable`: the path can go on only when `ready()` is true.

`drain` runs a path alone, from its begin to its end: the sequential model.
`mmu_lock` itself is no object here, because no section is ever interrupted.
"""

from collections.abc import Generator
from typing import Protocol, TypeVar

from nestscope.sim.errors import UnmodelledError

T = TypeVar("T")


class Waitable(Protocol):
    """Something that a path waits for."""

    def ready(self) -> bool:
        """Return whether the path may go on now."""
        ...


Point = str | Waitable
Steps = Generator[Point, None, T]


class Mutex:
    """`struct mutex`: `while m.held: yield m`, then `m.held = True`; later `m.held = False`."""

    __slots__ = ("held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = False

    def ready(self) -> bool:
        """Whether it is free."""
        return not self.held


class Srcu:
    """`struct srcu_struct`: readers are numbered, a grace period waits for those of its start."""

    __slots__ = ("last", "readers")

    def __init__(self) -> None:
        self.last = 0
        self.readers: set[int] = set()

    def read_lock(self) -> int:
        """`srcu_read_lock`: return what `read_unlock` takes."""
        self.last += 1
        self.readers.add(self.last)
        return self.last

    def read_unlock(self, reader: int) -> None:
        """`srcu_read_unlock`."""
        self.readers.discard(reader)


class GracePeriod:
    """`synchronize_srcu`: yield it; it is over when every reader of its start is gone."""

    __slots__ = ("srcu", "until")

    def __init__(self, srcu: Srcu) -> None:
        self.srcu = srcu
        self.until = srcu.last

    def ready(self) -> bool:
        """Whether no reader from before is left."""
        return all(reader > self.until for reader in self.srcu.readers)


def drain(steps: Steps[T]) -> T:
    """Run a path to its end and return what it returns.

    Raises:
        UnmodelledError: if it waits for something, because nobody else runs.
    """
    while True:
        try:
            point = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if point.__class__ is not str and not point.ready():  # type: ignore[union-attr]
            raise UnmodelledError("a kernel path waits for a lock that nobody else will release")
