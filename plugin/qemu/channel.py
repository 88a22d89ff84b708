"""The command channel to the guest agent: programs of operations in, one reply each out.

One command a line, many lines at once, one reply line each, in order:
`ok key=value ...` or `error WHAT errno=N ...`; after `ok bytes=N` follow N raw
bytes. `and COMMAND` is done only if the command before it was. The commands
(`agent/main.c` says more):

    hello, vm, slot ID GPA SIZE FLAGS [huge], vcpu, destroy
    stub CODE_GPA MAILBOX_GPA, payload GPA
    write GPA HEX, read GPA LEN, peek GPA, poke GPA VALUE, discard GPA LEN
    hcall NR [A0 .. A6]                      -> ret r4
    enter L1_LPID NIP R3 R4 R5 STATE_GPA     -> ret (trap) nip msr r3..r6 hdar hdsisr asdr
                                                heir srr0 srr1
    listing, dmesg, crash

`payload`'s entry is nip 0 when it is mapped at nested real address 0: r3 is the
address, r4 what to do there (0 load, 1 store r5, 2 jump; 8 bytes). It ends in
`sc 1`, seen as ret 0xc00, with r3 = 0, or r3 = the vector of an interrupt.
The agent knows nothing of radix trees: what is written where is computed here.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nestscope.plugin.qemu.errors import LabError, RefusedError

SILENCE_SECONDS = 9.0
_POLL_SECONDS = 0.2
_LINE_LIMIT = 64 << 10
_BYTES_LIMIT = 256 << 20
_IMPOSSIBLE = frozenset(
    {"arguments", "hex", "no-slot", "no-vm", "vm-exists", "no-vcpu", "vcpu-exists", "no-stub"}
)
"""Errors with which the agent refuses a command before it does anything."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `error` is None when the command was done; `values` are its key=value pairs.

    `data` holds the bytes that follow a `bytes=N` reply (listing, dmesg).
    """

    command: str
    error: str | None
    values: dict[str, str]
    data: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the command was done."""
        return self.error is None

    def __getitem__(self, key: str) -> int:
        """Return the number `key` of the reply.

        Raises:
            LabError: if the reply has no such number.
        """
        try:
            return int(self.values[key], 0)
        except (KeyError, ValueError) as problem:
            raise LabError(
                f"the agent's reply to '{shorten(self.command)}' has no number {key} "
                f"({self.error or self.values})"
            ) from problem

    def payload(self) -> bytes:
        """Return the bytes of a `read` reply, or the bytes that followed the line."""
        return bytes.fromhex(self.values["data"]) if "data" in self.values else self.data


def shorten(command: str) -> str:
    """Return a command line short enough for a message."""
    return command if len(command) <= 60 else f"{command[:57]}..."


def parse_reply(command: str, line: str) -> Reply:
    """Parse one reply line.

    Raises:
        LabError: if it is neither `ok` nor `error`, or a word is not key=value.
    """
    words = line.split()
    error: str | None = None
    if words[:1] == ["error"] and len(words) >= 2:
        error, pairs = words[1], words[2:]
    elif words[:1] == ["ok"]:
        pairs = words[1:]
    else:
        raise LabError(f"the agent answered '{shorten(line)}' to '{shorten(command)}': boot again")
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise LabError(f"the agent's reply has a word that is not key=value: '{pair}'")
        values[key] = value
    return Reply(command, error, values)


class Agent:
    """A connection to the agent.

    `watch` is called while waiting, at least five times a second; it raises when
    the machine has failed. `silent` is called when no byte came for the time-out;
    it returns the exception to raise.
    """

    def __init__(
        self,
        connection: socket.socket,
        watch: Callable[[], None],
        silent: Callable[[str], Exception],
    ) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        self._watch = watch
        self._silent = silent
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._waiting: deque[str] = deque()
        self._partial: Reply | None = None

    def run(self, commands: Sequence[str], timeout: float = SILENCE_SECONDS) -> list[Reply]:
        """Send a program of commands and return their replies, in order.

        `timeout` bounds, in seconds, how long the agent may send nothing.

        Raises:
            LabFailure: if the machine failed or the agent is silent.
            LabError: if a reply cannot be understood.
        """
        self.submit(commands)
        return self.collect(len(commands), timeout)

    def must(
        self, commands: Sequence[str], timeout: float = SILENCE_SECONDS, prepared: int = 0
    ) -> list[Reply]:
        """As `run`, but a command that was refused is an error.

        A command that begins with `and ` is done only if the one before it was. The first
        `prepared` commands change nothing that stays if a later one of them, or the one
        after them, is refused.

        Raises:
            RefusedError: if a command cannot be done with its arguments, and none before it
                changed anything.
            LabError: naming the first command that was refused.
        """
        replies = self.run(commands, timeout)
        for number, reply in enumerate(replies):
            if reply.error is not None:
                impossible = number <= prepared and reply.error in _IMPOSSIBLE
                raise (RefusedError if impossible else LabError)(
                    f"the agent could not do '{shorten(reply.command.removeprefix('and '))}': "
                    f"{reply.error} "
                    f"{' '.join(f'{k}={v}' for k, v in reply.values.items())}"
                )
        return replies

    def submit(self, commands: Iterable[str]) -> None:
        """Queue commands and send what the channel takes now; `collect` gets the replies.

        For a caller that has work to do (a breakpoint) while the guest runs.
        """
        for command in commands:
            if "\n" in command or not command.strip():
                raise LabError(f"not one command line: {command!r}")
            self._waiting.append(command)
            self._outgoing += command.encode("ascii") + b"\n"
        self._pump(0)

    def collect(self, count: int, timeout: float = SILENCE_SECONDS) -> list[Reply]:
        """Wait for the next `count` replies (as `run`)."""
        if count > len(self._waiting):
            raise LabError(f"{count} replies asked for, {len(self._waiting)} are due")
        replies: list[Reply] = []
        quiet_since = time.monotonic()
        while len(replies) < count:
            reply = self._next()
            if reply is not None:
                replies.append(reply)
                continue
            if self._pump(_POLL_SECONDS):
                quiet_since = time.monotonic()
                continue
            self._watch()
            if time.monotonic() - quiet_since > timeout:
                raise self._silent(f"no answer to '{shorten(self._waiting[0])}' in {timeout:.0f} s")
        # A kernel can print an oops and still answer.
        self._watch()
        return replies

    def take(self) -> Reply | None:
        """Return the next reply if it is here now, for a caller who watches something else, too.

        Raises:
            LabFailure: if the machine failed.
        """
        self._pump(0)
        reply = self._next()
        self._watch()
        return reply

    def close(self) -> None:
        """Close the channel."""
        self._socket.close()

    def _pump(self, seconds: float) -> bool:
        """Send and receive what goes now, waiting at most `seconds`; say whether anything did."""
        sending = [self._socket] if self._outgoing else []
        try:
            readable, writable, _ = select.select([self._socket], sending, [], seconds)
            if writable:
                del self._outgoing[: self._socket.send(self._outgoing)]
            if readable:
                new = self._socket.recv(1 << 16)
                if not new:
                    self._watch()
                    raise self._silent("QEMU closed the command channel")
                self._incoming += new
        except BlockingIOError:
            return False
        except OSError as problem:
            self._watch()
            raise self._silent(f"the command channel broke ({problem})") from problem
        return bool(readable or writable)

    def _next(self) -> Reply | None:
        """Take one whole reply out of what was received, if there is one."""
        if self._partial is None:
            end = self._incoming.find(b"\n")
            if end < 0:
                if len(self._incoming) > _LINE_LIMIT:
                    raise LabError("the agent's reply has no end: boot again")
                return None
            line = self._incoming[:end].decode("ascii", errors="replace")
            del self._incoming[: end + 1]
            self._partial = parse_reply(self._waiting[0], line)
        reply = self._partial
        size = reply["bytes"] if reply.ok and "bytes" in reply.values else 0
        if not 0 <= size <= _BYTES_LIMIT:
            raise LabError(f"the agent announces {size} bytes: boot again")
        if len(self._incoming) < size:
            return None
        data = bytes(self._incoming[:size])
        del self._incoming[:size]
        self._partial = None
        return Reply(self._waiting.popleft(), reply.error, reply.values, data)
