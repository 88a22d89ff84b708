"""The worker's end of the pipe: commands come in, questions and answers go out."""

import os
from collections.abc import Sequence
from typing import Any

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.gdb.inside.wire import Message, Unpacker, pack

_PIECE = 1 << 20


class GdbGoneError(NestscopeError):
    """GDB ended, or closed the pipe: there is nobody to answer any more."""

    def __init__(self) -> None:
        super().__init__("GDB closed the conversation")


class TargetLostError(NestscopeError):
    """The connection to the target was lost while it was being read."""


class RefusedError(NestscopeError):
    """GDB could not do what was asked; the text is its own."""


class GdbSide:
    """Messages with GDB over two file descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._unpacker = Unpacker()
        self.lost: TargetLostError | None = None
        """The loss of the target, once it is noticed in a command."""

    def begin(self) -> None:
        """Begin a command: what was lost before does not count."""
        self.lost = None

    def receive(self) -> tuple[Message, bytes]:
        """Wait for the next message. GDB is the master here, so it may take days.

        Raises:
            GdbGoneError: when GDB has closed the pipe.
            WireError: if what comes is no message.
        """
        while True:
            whole = self._unpacker.next()
            if whole is not None:
                return whole
            data = os.read(self._incoming, _PIECE)
            if not data:
                raise GdbGoneError
            self._unpacker.feed(data)

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            GdbGoneError: when GDB has closed the pipe.
        """
        view = memoryview(pack(message))
        try:
            while view:
                view = view[os.write(self._outgoing, view) :]
        except BrokenPipeError as error:
            raise GdbGoneError from error

    def ask(self, what: str, **values: Any) -> tuple[Message, bytes]:
        """Ask GDB for something and return its answer.

        Raises:
            TargetLostError: if the target is gone.
            RefusedError: if GDB could not do it.
        """
        self.send({"ask": what, **values})
        answer, raw = self.receive()
        if "error" in answer:
            if answer.get("gone"):
                self.lost = TargetLostError(
                    f"the target is gone ({answer['error']}): start it again and connect with "
                    "`target remote`"
                )
                raise self.lost
            raise RefusedError(str(answer["error"]))
        return answer, raw

    def read_runs(self, how: str, runs: Sequence[tuple[int, int]]) -> tuple[bytes, set[int]]:
        """Read each run (address, length in bytes) through GDB: `how` is "physical" or "virtual".

        Returns:
            the bytes of all runs, one after the other, and the numbers of those that
            cannot be read (their bytes are zero).

        Raises:
            TargetLostError, RefusedError: see `ask`.
        """
        answer, raw = self.ask(how, runs=runs)
        if len(raw) != sum(length for _, length in runs):
            raise RefusedError(f"GDB returned {len(raw)} bytes for {len(runs)} reads")
        return raw, set(answer["bad"])

    def monitor(self, command: str) -> str:
        """Run a command of QEMU's monitor that only reads; return what it printed.

        Raises:
            TargetLostError, RefusedError: see `ask`.
        """
        return self.ask("monitor", command=command)[1].decode("utf-8", "replace")

    def progress(self, text: str) -> None:
        """Let GDB show how far a long command is."""
        self.send({"progress": text})
