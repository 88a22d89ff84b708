"""A GDB that a program drives as a user would: commands in, what GDB prints out.

For tests and for the recorded session of the docs. Every wait has a bound.
"""

import codecs
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.gdb.loader import GDB, write_loader
from nestscope.plugin.mi.child import die_with_parent

PROMPT = "(gdb) "
_QUIET = (
    "set confirm off",
    "set pagination off",
    "set width 100",
    "set debuginfod enabled off",
    "set auto-load off",
    "set tcp auto-retry off",
)
_PIECE = 1 << 16


class TerminalError(NestscopeError):
    """GDB did not do what the program waited for."""


class GdbTerminal:
    """GDB with the plugin loaded; a context manager.

    Raises:
        TerminalError: if GDB does not come up.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path] = (),
        *,
        gdb: str = GDB,
        loader: Path | None = None,
        timeout: float = 60.0,
        color: bool = False,
    ) -> None:
        self.timeout = timeout
        argv = [gdb, "-nx", "-q"]
        # On a dumb terminal GDB would turn it off.
        style = f"set style enabled {'on' if color else 'off'}"
        for command in (*_QUIET, style, f"source {loader or write_loader()}"):
            argv += ["-iex", command]
        self._process = subprocess.Popen(
            [*argv, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - between fork and exec it only calls prctl
            env=_environment(color=color),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout.fileno()
        self._held = ""
        # A character may be cut in two by the pipe.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            self.wait()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of GDB."""
        return self._process.pid

    def run(self, command: str, timeout: float | None = None) -> str:
        """Run one command and return what GDB printed up to its next prompt.

        Raises:
            TerminalError: if no prompt comes in time, or GDB ends.
        """
        self.send(command)
        return self.wait(timeout)

    def send(self, command: str) -> None:
        """Type a command, and do not wait: the target may run for a while."""
        try:
            self._stdin.write(command.encode() + b"\n")
        except OSError as error:
            raise TerminalError(f"GDB takes no command any more: {error.strerror}") from error

    def wait(self, timeout: float | None = None) -> str:
        """Wait for a prompt; return what came before it.

        Raises:
            TerminalError: if no prompt comes in time, or GDB ends.
        """
        limit = time.monotonic() + (timeout or self.timeout)
        while True:
            end = self._held.find(PROMPT)
            if end >= 0:
                found, self._held = self._held[:end], self._held[end + len(PROMPT) :]
                return found
            left = limit - time.monotonic()
            if left <= 0:
                raise TerminalError(f"GDB gave no prompt in time, only {self._held[-2000:]!r}")
            ready, _, _ = select.select([self._stdout], [], [], left)
            if ready:
                data = os.read(self._stdout, _PIECE)
                if not data:
                    raise TerminalError(f"GDB ended after {self._held[-2000:]!r}")
                self._held += self._decoder.decode(data)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.kill(self._process.pid, signal.SIGINT)

    def close(self) -> int:
        """End GDB; return its status. A GDB that does not end is killed."""
        with suppress(OSError):
            self._stdin.write(b"quit\n")
        with suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment(*, color: bool) -> dict[str, str]:
    """Return an environment in which GDB behaves the same for everybody."""
    wanted = {"LC_ALL": "C.UTF-8", "TERM": "dumb", "HOME": "/nonexistent"}
    wanted |= {"FORCE_COLOR": "1"} if color else {}
    kept = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return kept | wanted
