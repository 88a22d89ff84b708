"""The journal of a campaign: one JSON object a line, on the disk before anything depends on it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nestscope.decoders.errors import NestscopeError

SCHEMA = "nestscope.campaign/1"
Entry = dict[str, Any]


class Journal:
    """An append-only file that survives a kill at any moment.

    A line that a kill cut short is no entry: it is removed when the journal is opened
    again. Only one campaign may have it open.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal, make it if there is none.

        Raises:
            NestscopeError: if it cannot be written, is not a journal, or is in use.
        """
        self.path = path
        try:
            self._file: FileIO = path.open("ab+", buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise NestscopeError(
                f"{path.parent} is in use by another campaign: wait for it, or give another folder"
            ) from None
        self.entries = list(self._recover())

    def _recover(self) -> Iterator[Entry]:
        """Yield the whole entries; cut off what a kill left of the last one."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict) or "event" not in entry:
                    raise ValueError
            except ValueError:
                raise NestscopeError(
                    f"line {number} of {self.path} is no entry of a campaign's journal: "
                    "give another folder"
                ) from None
            yield entry
        if len(whole) < len(data):
            os.ftruncate(self._file.fileno(), len(whole))

    def append(self, event: str, **values: object) -> None:
        """Write an entry; when this returns it is on the disk.

        Raises:
            NestscopeError: if the disk is full. What was there before is whole.
        """
        entry: Entry = {"event": event, **values}
        line = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                os.ftruncate(self._file.fileno(), size)
                raise NestscopeError(f"{self.path} cannot be written: the disk is full, make room")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.entries.append(entry)

    def close(self) -> None:
        """Close the file; another campaign may open it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _unwritable(path: Path, error: OSError) -> NestscopeError:
    return NestscopeError(
        f"{path} cannot be written ({error.strerror}): make room and run it again"
    )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever a kill comes.

    Raises:
        NestscopeError: if it cannot be written; nothing is left behind.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise _unwritable(path, error) from error
