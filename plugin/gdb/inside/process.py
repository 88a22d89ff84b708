"""The worker process: started on first use, asked over pipes, ended with GDB."""

import errno
import os
import select
import subprocess
import time
from typing import Callable, Optional, Tuple

from .wire import Message, Unpacker, WireError, pack

SILENCE_SECONDS = 180.0
"""A worker that says nothing for so long is ended. It reports progress meanwhile."""
END_SECONDS = 2.0
_POLL_SECONDS = 0.2
_PIECE = 1 << 20
_TAIL = 4000

Answer = Callable[[Message], Tuple[Message, bytes]]
"""Answers what the worker asks of GDB."""


class WorkerError(Exception):
    """The worker cannot be used: one sentence says why, and what to do."""


class Worker:
    """The process and the conversation with it.

    `python` is the interpreter of the environment that nestscope is installed in.
    """

    def __init__(self, python: str, answer: Answer, progress: Callable[[str], None]) -> None:
        self._python = python
        self._answer = answer
        self._progress = progress
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._unpacker = Unpacker()

    @property
    def pid(self) -> Optional[int]:
        """Process id of the running worker, or None."""
        return None if self._process is None else self._process.pid

    def request(self, message: Message) -> Message:
        """Send a command; serve what the worker asks; return its final message.

        Raises:
            WorkerError: if the worker cannot be started, or ended; the next
                request starts another.
        """
        if self._process is None:
            self._start()
        try:
            self._send(pack(message))
            while True:
                received, _ = self._receive()
                if "ask" in received:
                    reply, raw = self._answer(received)
                    self._send(pack(reply, raw))
                elif "progress" in received:
                    self._progress(str(received["progress"]))
                else:
                    return received
        except BaseException:
            # Half a conversation cannot be continued: after Ctrl-C, too, begin afresh.
            self.end(0.0)
            raise

    def end(self, seconds: float = END_SECONDS) -> None:
        """End the worker, with a kill after `seconds`."""
        process, self._process = self._process, None
        self._unpacker = Unpacker()
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass  # what was not sent yet goes nowhere
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()

    def _start(self) -> None:
        if not os.access(self._python, os.X_OK):
            raise WorkerError(
                "the Python that nestscope was installed with, {}, is not there any more: "
                "install nestscope again and source the line that `nestscope gdb --print` "
                "gives".format(self._python)
            )
        # GDB's own environment must not lead the worker to another library.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        try:
            self._process = subprocess.Popen(
                [self._python, "-m", "nestscope.plugin.gdb.worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for GDB
            )
        except OSError as error:
            raise WorkerError(
                "the worker {} cannot be started: {}".format(self._python, error.strerror)
            )

    def _send(self, data: bytes) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        descriptor = process.stdin.fileno()
        view = memoryview(data)
        limit = time.monotonic() + SILENCE_SECONDS
        os.set_blocking(descriptor, False)
        while view:
            _, ready, _ = select.select([], [descriptor], [], _POLL_SECONDS)
            if not ready:
                if time.monotonic() > limit:
                    raise WorkerError("the worker of nestscope takes no message: try again")
                continue
            try:
                view = view[os.write(descriptor, view[:_PIECE]) :]
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EAGAIN):
                    raise
                if error.errno == errno.EPIPE:
                    raise self._ended()

    def _receive(self) -> Tuple[Message, bytes]:
        process = self._process
        assert process is not None and process.stdout is not None
        descriptor = process.stdout.fileno()
        limit = time.monotonic() + SILENCE_SECONDS
        while True:
            try:
                whole = self._unpacker.next()
            except WireError as error:
                raise WorkerError("the worker of nestscope does not make sense: {}".format(error))
            if whole is not None:
                return whole
            ready, _, _ = select.select([descriptor], [], [], _POLL_SECONDS)
            if ready:
                data = os.read(descriptor, _PIECE)
                if not data:
                    raise self._ended()
                self._unpacker.feed(data)
            elif time.monotonic() > limit:
                raise WorkerError(
                    "the worker of nestscope was silent for {:.0f} s and was ended: "
                    "try again".format(SILENCE_SECONDS)
                )

    def _ended(self) -> WorkerError:
        """Return why the worker is gone, in one sentence."""
        process = self._process
        assert process is not None and process.stderr is not None
        try:
            status = process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        os.set_blocking(process.stderr.fileno(), False)
        told = process.stderr.read(_TAIL) or b""
        lines = [line for line in told.decode("utf-8", "replace").splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "it said nothing"
        if "No module named" in last:
            return WorkerError(
                "{} has no working nestscope any more ({}): install nestscope again and source "
                "the line that `nestscope gdb --print` gives".format(self._python, last)
            )
        return WorkerError(
            "the worker of nestscope ended (status {}: {}); the next command starts another".format(
                status, last
            )
        )
