"""A GDB child process that speaks GDB/MI over pipes, without a single sleep.

Every command carries a token. It is complete when its result record and the
`(gdb)` prompt after it were read. Commands may be *pipelined*: submitted
together, then collected, so that GDB never waits for us between them. Writing
and reading share one poll loop: GDB stops reading commands while its output
pipe is full, so a writer that does not read would deadlock.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from nestscope.plugin.mi.child import nonblocking, start_child
from nestscope.plugin.mi.errors import (
    GdbCommandError,
    GdbGoneError,
    GdbMissingError,
    GdbTimeoutError,
    MiSyntaxError,
)
from nestscope.plugin.mi.records import MiRecord, parse_record

MAX_LINE = 64 << 20
"""Longest accepted output line in bytes; a larger one is not an answer of ours."""
STDERR_TAIL = 8192
ASYNC_KEPT = 4096
"""Asynchronous records kept for a caller who looks later; the oldest go first."""
_READ_SIZE = 1 << 20
_PLAIN_COMMAND = re.compile(r"[^\r\n]+")

# Nothing of the user's set-up, nothing that an object file brings along, no network.
_QUIET = (
    "set confirm off",
    "set pagination off",
    "set width 0",
    "set auto-load off",
    "set debuginfod enabled off",
    "set startup-with-shell off",
)


@dataclass(slots=True)
class MiResult:
    """What one command brought.

    Attributes:
        record: its result record ("done", "running", "connected", ...; never "error").
        console: text that GDB printed on the console stream while it ran.
        log: the same for GDB's log stream (warnings).
    """

    record: MiRecord
    console: str = ""
    log: str = ""


@dataclass(slots=True)
class _Pending:
    command: str
    record: MiRecord | None = None
    done: bool = False
    console: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


class MiTransport:
    """One GDB process and its MI conversation; a context manager.

    Args:
        gdb: program to start.
        on_async: called with each notification (`*stopped`, `=thread-created`, ...)
            as it is read, in GDB's order; it must not call the transport back.

    Not for use from several threads. The kernel kills GDB when the thread that
    made the transport dies, however it dies (PR_SET_PDEATHSIG).

    Raises:
        GdbMissingError: if the program does not exist.
    """

    def __init__(
        self,
        gdb: str = "gdb-multiarch",
        *,
        on_async: Callable[[MiRecord], None] | None = None,
        start_timeout: float = 20.0,
    ) -> None:
        argv = [gdb, "--interpreter=mi3", "-nx", "-q"]
        for command in _QUIET:
            argv += ["-iex", command]
        try:
            self._process = start_child(argv)
        except OSError as error:
            raise GdbMissingError(gdb) from error
        self.async_records: deque[MiRecord] = deque(maxlen=ASYNC_KEPT)
        self._on_async = on_async
        self._stdin, self._stdout, self._stderr = (
            nonblocking(stream)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)
        # End of file alone would not tell: a child of GDB may hold the pipes open.
        self._pidfd = os.pidfd_open(self._process.pid)
        self._poll.register(self._pidfd, select.POLLIN)
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._scanned = 0
        self._stderr_tail = b""
        self._pending: dict[int, _Pending] = {}
        self._order: deque[int] = deque()
        self._unprompted: int | None = None
        self._next_token = 1
        self._ready = False
        self._gone = self._closed = False
        self._broken: MiSyntaxError | None = None
        try:
            self.wait(lambda: self._ready, start_timeout, "GDB's first prompt")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of GDB."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether GDB still talks to us."""
        return not self._gone and self._process.poll() is None

    def submit(self, command: str) -> int:
        """Queue one MI command, without its token; return the token to collect it by.

        Raises:
            GdbGoneError: if GDB has ended.
        """
        if not _PLAIN_COMMAND.fullmatch(command):
            raise ValueError("an MI command is one line")
        if self._gone:
            raise self._death()
        token = self._next_token
        self._next_token += 1
        self._pending[token] = _Pending(command)
        self._order.append(token)
        self._outgoing += b"%d%s\n" % (token, command.encode())
        return token

    def collect(self, token: int, timeout: float) -> MiResult:
        """Wait at most `timeout` seconds for the command with `token`; return its result.

        Raises:
            GdbCommandError: GDB answered with an error record.
            GdbTimeoutError: no answer in time; a late one is dropped by its token.
            GdbGoneError: GDB ended.
            MiSyntaxError: GDB's output is not MI.
        """
        pending = self._pending[token]
        try:
            self.wait(lambda: pending.done, timeout, f"the answer to `{pending.command[:100]}`")
        finally:
            del self._pending[token]
        record = pending.record
        assert record is not None  # `done` is set after it
        if record.message == "error":
            reason = str(record.payload.get("msg", "no reason given"))
            raise GdbCommandError(pending.command, reason)
        return MiResult(record, "".join(pending.console), "".join(pending.log))

    def execute(self, command: str, timeout: float = 10.0) -> MiResult:
        """Submit one command and collect it; errors as in `collect`."""
        return self.collect(self.submit(command), timeout)

    def execute_many(self, commands: Sequence[str], timeout: float) -> list[MiResult]:
        """Pipeline `commands`: submit all, then collect all within `timeout` seconds together.

        Raises:
            As `collect`, for the first one that failed; the answers of the others are dropped.
        """
        deadline = time.monotonic() + timeout
        tokens = [self.submit(command) for command in commands]
        try:
            return [self.collect(token, max(0.0, deadline - time.monotonic())) for token in tokens]
        finally:
            for token in tokens:
                self._pending.pop(token, None)

    def wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Move bytes until `condition()` holds, at most `timeout` seconds.

        Raises:
            GdbTimeoutError: naming `what` was waited for.
            GdbGoneError: GDB ended first.
            MiSyntaxError: GDB's output is not MI.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if self._broken is not None:
                raise self._broken
            if self._gone:
                raise self._death()
            left = deadline - time.monotonic()
            if left <= 0:
                raise GdbTimeoutError(
                    f"no sign of {what} within {timeout:g} s: GDB or its target hangs"
                )
            self._move(left)

    def close(self, timeout: float = 2.0) -> None:
        """End GDB by its pid and reap it; at most a little over `timeout` seconds.

        May be called twice.
        """
        if self._closed:
            return  # the descriptors may be another file's by now
        self._gone = self._closed = True
        os.close(self._pidfd)
        with suppress(OSError):
            self._flush(b"-gdb-exit\n")
        # End of input ends GDB too; an unresponsive one is killed.
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _move(self, seconds: float) -> None:
        """One turn of the poll loop."""
        if self._outgoing:
            self._poll.register(self._stdin, select.POLLOUT)
        events = self._poll.poll(max(1, int(seconds * 1000)))
        for descriptor, _ in events:
            if descriptor == self._stdin:
                self._send()
            elif descriptor == self._stdout:
                self._receive()
            elif descriptor == self._stderr:
                self._receive_stderr()
        if not self._gone and [d for d, _ in events] == [self._pidfd]:
            self._gone = True  # and both pipes are drained

    def _send(self) -> None:
        try:
            sent = os.write(self._stdin, self._outgoing[:65536])
        except BlockingIOError:
            return
        except BrokenPipeError:  # stdout's end of file tells the rest
            sent = len(self._outgoing)
        del self._outgoing[:sent]
        if not self._outgoing:
            self._poll.unregister(self._stdin)

    def _flush(self, last: bytes) -> None:
        os.write(self._stdin, bytes(self._outgoing) + last)

    def _receive(self) -> None:
        try:
            chunk = os.read(self._stdout, _READ_SIZE)
        except BlockingIOError:
            return
        if not chunk:
            self._poll.unregister(self._stdout)
            self._gone = True
            return
        self._incoming += chunk
        if len(self._incoming) > MAX_LINE:
            self._broken = MiSyntaxError(f"GDB wrote a line of more than {MAX_LINE >> 20} MiB")
            self._incoming.clear()
            return
        # `_scanned` keeps a megabyte line from being searched once a chunk.
        end = self._incoming.rfind(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._incoming)
            return
        lines = bytes(self._incoming[:end]).split(b"\n")
        del self._incoming[: end + 1]
        self._scanned = len(self._incoming)
        for line in lines:
            self._take(line.rstrip(b"\r"))

    def _receive_stderr(self) -> None:
        try:
            chunk = os.read(self._stderr, _READ_SIZE)
        except BlockingIOError:
            return
        if not chunk:
            self._poll.unregister(self._stderr)
        self._stderr_tail = (self._stderr_tail + chunk)[-STDERR_TAIL:]

    def _take(self, line: bytes) -> None:
        if not line:
            return
        try:
            record = parse_record(line)
        except MiSyntaxError as error:
            self._broken = error
            return
        if record.kind == "prompt":
            self._ready = True
            self._finish()
        elif record.kind == "result":
            self._take_result(record)
        elif record.kind == "notify":
            self.async_records.append(record)
            if self._on_async is not None:
                self._on_async(record)
        elif self._order and (pending := self._pending.get(self._order[0])) is not None:
            # GDB runs commands in order: a stream belongs to the oldest one.
            (pending.log if record.kind == "log" else pending.console).append(record.text)
        else:
            self.async_records.append(record)

    def _take_result(self, record: MiRecord) -> None:
        if record.token is None or record.token not in self._order:
            return  # of a command that nobody waits for any more
        while self._order[0] != record.token:
            self._order.popleft()
        pending = self._pending.get(record.token)
        if pending is not None:
            pending.record = record
        self._unprompted = record.token

    def _finish(self) -> None:
        """A prompt completes the command whose result record came before it."""
        if self._unprompted is None:
            return
        pending = self._pending.get(self._unprompted)
        if pending is not None:
            pending.done = True
        if self._order and self._order[0] == self._unprompted:
            self._order.popleft()
        self._unprompted = None

    def _death(self) -> GdbGoneError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.returncode
        if status is None:
            how = "closed its output"
        elif status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        tail = self._stderr_tail.decode("utf-8", "replace").strip()[-400:]
        return GdbGoneError(f"GDB {how}" + (f"; its last words: {tail}" if tail else ""))
