"""Files that the user asked for: there when they are whole, and not before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nestscope.decoders.errors import NestscopeError


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes the place of `path` at the end.

    If that fails, or is interrupted, a file that was there is as before, and no part of
    the new one stays. A device or pipe is written to directly.

    Raises:
        NestscopeError: if it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()  # a link stays one
        part = target.with_name(f".nestscope-{os.getpid()}")
        try:
            yield part
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink()
    except OSError as error:
        raise NestscopeError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once everything is written; see `new_path`.

    Raises:
        NestscopeError: if it cannot be written.
    """
    with new_path(path) as part, part.open("wb") as file:
        yield file
