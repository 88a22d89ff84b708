"""QEMU's machine protocol. The only module that imports qemu.qmp."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from nestscope.plugin.qemu.errors import LabError

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_COMMAND_SECONDS = 10.0
_DUMP_SECONDS = 300.0
_BROKEN = (QMPError, OSError, TimeoutError, asyncio.TimeoutError, EOFError)

DUMP_FORMATS = (
    *("elf", "kdump-zlib", "kdump-lzo", "kdump-snappy"),
    *("kdump-raw-zlib", "kdump-raw-lzo", "kdump-raw-snappy"),
)
"""QEMU's `DumpGuestMemoryFormat` without win-dmp; which it has depends on how it was built."""


class Qmp:
    """A QMP session over QEMU's unix socket; every command has a time-out.

    It owns an event loop that runs only inside the calls, so it works from any
    plain thread and starts none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client: QMPClient | None = None
        self._runner: asyncio.Runner | None = None

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        assert self._runner is not None
        return self._runner.run(asyncio.wait_for(work, seconds))

    def connect(self, watch: Callable[[], None]) -> None:
        """Connect, waiting for QEMU to make the socket; `watch` raises when QEMU has ended.

        Raises:
            LabError: if there is no session within 10 s.
        """
        self._runner = asyncio.Runner()
        limit = time.monotonic() + _CONNECT_SECONDS
        while True:
            client = QMPClient("nestscope")
            try:
                self._wait(client.connect(str(self._path)), _CONNECT_SECONDS)
            except _BROKEN as problem:
                watch()
                if time.monotonic() > limit:
                    raise LabError(f"QEMU does not answer on its QMP socket: {problem}") from None
                time.sleep(0.02)
                continue
            self._client = client
            return

    def command(self, name: str, timeout: float = _COMMAND_SECONDS, **arguments: object) -> Any:
        """Execute a QMP command and return its result.

        Raises:
            LabError: if QEMU refuses it, is gone, or does not answer in `timeout` seconds.
        """
        if self._client is None:
            raise LabError(f"QMP {name}: there is no session; boot the lab first")
        try:
            return self._wait(self._client.execute(name, dict(arguments)), timeout)
        except ExecuteError as problem:
            raise LabError(f"QEMU refused QMP {name}: {problem}") from problem
        except _BROKEN as problem:
            why = str(problem) or type(problem).__name__
            raise LabError(f"QEMU did not do QMP {name} ({why}): boot the lab again") from problem

    def stop(self) -> None:
        """Stop the vCPUs."""
        self.command("stop")

    def cont(self) -> None:
        """Let the vCPUs run."""
        self.command("cont")

    def status(self) -> str:
        """Return QEMU's run state: "running", "paused", "debug", "guest-panicked", ..."""
        return str(self.command("query-status")["status"])

    def dump_guest_memory(self, path: Path, dump_format: str = "elf") -> None:
        """Write a dump of guest memory to `path`, in one of `DUMP_FORMATS`."""
        self.command(
            "dump-guest-memory",
            timeout=_DUMP_SECONDS,
            paging=False,
            protocol=f"file:{path}",
            format=dump_format,
        )

    def close(self) -> None:
        """Close the session; never fails and never waits longer than 2 s."""
        client, self._client = self._client, None
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if client is not None:
            # QEMU may be gone already: then there is nothing left to close.
            with contextlib.suppress(*_BROKEN):
                runner.run(asyncio.wait_for(client.disconnect(), 2.0))
        runner.close()
