"""Where a path stands: its place in the code and everything that it holds in variables.

Two runs that agree in the world and in this go on alike. A generator's frame holds its
local variables and, on its value stack, the iterators of its `for` loops; the garbage
collector's view of a generator shows both.
"""

import gc
from collections.abc import Callable, Generator, Hashable
from types import CellType, CodeType, FrameType, FunctionType, GeneratorType
from typing import Any

NameOf = Callable[[object], Hashable]
"""Returns a name for an object of the world, None for what is no object of the world."""

PLAIN = (int, str, bytes, type(None))
STATELESS = (CodeType, FrameType, FunctionType, type)
ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())), type(iter(range(0))), type(iter("")))


def place_of(path: Generator[Any, Any, Any], name_of: NameOf) -> Hashable:
    """Return the place of a suspended path, with that of every path that it waits for.

    Raises:
        TypeError: if it holds something that has neither a value nor a name.
    """
    assert isinstance(path, GeneratorType)
    frame = path.gi_frame
    if frame is None:
        return path.__qualname__, "ended"
    held = [named(value, name_of) for value in gc.get_referents(path)]
    return path.__qualname__, frame.f_lasti, tuple(held)


def named(value: object, name_of: NameOf) -> Hashable:
    """Return something hashable that stands for `value`."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, tuple | list):
        return tuple(named(item, name_of) for item in value)
    if isinstance(value, GeneratorType):
        return place_of(value, name_of)
    if isinstance(value, ITERATORS):
        return named(value.__reduce__()[1:], name_of)
    if isinstance(value, STATELESS):
        return type(value).__name__
    if isinstance(value, CellType):
        return named(value.cell_contents, name_of)
    name = name_of(value)
    if name is None:
        raise TypeError(f"the explorer cannot tell two {type(value).__name__} apart")
    return name
