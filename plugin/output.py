"""Files that the user asked for: there when they are whole, and not before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nestscope.decoders.errors import NestscopeError


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once everything is written.

    If that fails, or is interrupted, a file that was there is as before, and no part of
    the new one stays. A device or pipe is written to directly.

    Raises:
        NestscopeError: if it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        target = path.resolve()  # a link stays one
        part = target.with_name(f".nestscope-{os.getpid()}")
        try:
            with part.open("wb") as file:
                yield file
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink()
    except OSError as error:
        raise NestscopeError(f"{path} cannot be written: {error.strerror}") from error
