"""Large reads through a file that QEMU writes: `monitor pmemsave` over GDB/MI.

GDB needs about 60 ns for each byte that it reads by packets (see `memory`).
The monitor command goes through the same session, but the bytes
come through a file, in about 1 ns each and 0.2 ms a command. It needs a directory
that QEMU and we both see, which only the caller can know.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from nestscope.plugin.mi import stub
from nestscope.plugin.mi.errors import TargetError
from nestscope.plugin.mi.transport import MiTransport

FILES = 64
"""Commands in flight at once, each with a file of its own."""


class Spool:
    """Files in `directory` for QEMU to write and us to read; a context manager.

    The files exist until `close`; the directory stays.

    Raises:
        TargetError: if a file cannot be made there.
    """

    def __init__(self, directory: Path) -> None:
        path = str(directory.absolute())
        if not path.isprintable() or any(c in path for c in "\"'\\"):
            raise TargetError(f"{path!r} cannot be named in a QEMU monitor command")
        self._files: list[tuple[Path, int]] = []
        self._directory = Path(path)

    def fetch(
        self, transport: MiTransport, runs: Sequence[tuple[int, int]], timeout: float
    ) -> list[bytes]:
        """Return the physical memory of each run (address, length in bytes < 2^31).

        Raises:
            TargetError: if QEMU did not write exactly what was asked.
        """
        found: list[bytes] = []
        for first in range(0, len(runs), FILES):
            batch = runs[first : first + FILES]
            commands = [
                stub.monitor_command(f'pmemsave {address:#x} {length:#x} "{self._file(i)[0]}"')
                for i, (address, length) in enumerate(batch)
            ]
            results = transport.execute_many(commands, timeout)
            for (address, length), (path, descriptor), result in zip(
                batch, self._files, results, strict=False
            ):
                data = os.pread(descriptor, length + 1, 0)
                # An empty file cannot be mistaken for an answer next time.
                os.ftruncate(descriptor, 0)
                if len(data) != length:
                    raise TargetError(
                        f"QEMU did not write {length} bytes at {address:#x} to {path}: "
                        f"{result.console.strip() or 'does it see the same directory?'}"
                    )
                found.append(data)
        return found

    def close(self) -> None:
        """Remove the files."""
        while self._files:
            path, descriptor = self._files.pop()
            os.close(descriptor)
            with suppress(FileNotFoundError):
                path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, index: int) -> tuple[Path, int]:
        if index == len(self._files):
            path = self._directory / f"nestscope-mi-{os.getpid()}-{id(self):x}-{index}"
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise TargetError(f"{path} cannot be created: {error.strerror}") from error
            self._files.append((path, descriptor))
        return self._files[index]
