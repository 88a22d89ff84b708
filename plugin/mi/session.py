"""A GDB session with one QEMU target: connect, stop, continue, breakpoints, registers.

Nothing is written to the target except by `write`, and a vCPU's NIP by `cont`.
Breakpoints are requested as hardware ones: QEMU keeps them outside memory, and GDB
can never fall back to patching an instruction.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from nestscope.plugin.mi import stub
from nestscope.plugin.mi.endpoint import Endian, elf_endian, gdb_target
from nestscope.plugin.mi.errors import (
    GdbCommandError,
    GdbTimeoutError,
    MiError,
    TargetError,
    TargetGoneError,
    TargetRunningError,
)
from nestscope.plugin.mi.pages import covered
from nestscope.plugin.mi.records import MiRecord
from nestscope.plugin.mi.registers import RegisterReader
from nestscope.plugin.mi.transport import MiResult, MiTransport

_LOST = ("Remote connection closed", "Remote communication error", "Target disconnected")


@dataclass(frozen=True, slots=True)
class StopEvent:
    """Why the target stopped.

    Attributes:
        reason: GDB's word ("breakpoint-hit", "signal-received", ...), "" when it gave none.
        address: program counter as GDB shows it; None when unknown. Wrong when the
            vCPU stopped in the other byte order: `read_registers` gets that right.
        breakpoint: number of the breakpoint that was hit, else None.
    """

    reason: str
    address: int | None
    breakpoint: int | None


class GdbSession:
    """GDB attached to a target; made by `connect`, a context manager.

    Attributes:
        generation: grows whenever the target has run or was written to, so
            whatever was read under an older number may be stale.
    """

    def __init__(self, gdb: str, timeout: float) -> None:
        self.generation = 0
        self.timeout = timeout
        self._running = False
        self._connected = False
        self._closed = False
        self._lost = ""
        self._endpoint = ""
        self._stops: deque[StopEvent] = deque(maxlen=64)
        self._ram: tuple[range, ...] | None = None
        self._registers: RegisterReader | None = None
        self._physical = False
        self._endian: Endian = "little"
        self.transport = MiTransport(gdb, on_async=self._on_async)

    @classmethod
    def connect(
        cls,
        endpoint: str | Path,
        vmlinux: Path | None = None,
        *,
        gdb: str = "gdb-multiarch",
        endian: Endian | None = None,
        physical: bool = True,
        timeout: float = 10.0,
    ) -> Self:
        """Attach to QEMU's gdbstub, which stops the target.

        Args:
            endpoint: path of a unix socket, or `HOST:PORT`.
            vmlinux: the kernel's ELF file; only its byte order is taken.
            gdb: GDB program.
            endian: byte order of the kernel; by default vmlinux's, else little.
            physical: read guest physical addresses (see `stub`).
            timeout: seconds that any one answer may take.

        Raises:
            GdbMissingError: GDB is not installed.
            TargetError: nothing answers at the endpoint, or it is not QEMU's.
        """
        order = endian or (elf_endian(vmlinux) if vmlinux is not None else "little")
        session = cls(gdb, timeout)
        try:
            session._attach(str(endpoint), order, physical)
        except BaseException:
            session.close()
            raise
        return session

    @property
    def running(self) -> bool:
        """Whether the target runs."""
        return self._running

    @property
    def ram(self) -> tuple[range, ...]:
        """Physical ranges of RAM and ROM, ascending; asked once."""
        if self._ram is None:
            self.require_stopped()
            with self.target_errors():
                self._ram = stub.ram_ranges(self.transport, self.timeout)
        return self._ram

    def execute(self, command: str) -> MiResult:
        """Run one MI command that needs the stopped target.

        Raises:
            TargetRunningError, TargetGoneError: see `require_stopped`.
            GdbCommandError: GDB refused it.
        """
        self.require_stopped()
        with self.target_errors():
            return self.transport.execute(command, self.timeout)

    def require_stopped(self) -> None:
        """Raise a TargetError unless the target is there and stopped."""
        if not self._connected:
            raise TargetGoneError(
                f"{self._endpoint} is no longer connected{self._lost}: start QEMU and connect again"
            )
        if self._running:
            raise TargetRunningError(
                "the target is running: stop it first, or read inside `with session.stopped():`"
            )

    def interrupt(self, timeout: float | None = None) -> None:
        """Stop the target; nothing to do when it is stopped already."""
        if not self._running:
            self.require_stopped()
            return
        with self.target_errors():
            self.transport.execute("-exec-interrupt", self.timeout)
            self._wait_not_running(timeout or self.timeout)

    def cont(self, at: int | None = None) -> None:
        """Let the target run, the stopped vCPU from the virtual address `at` if that is given.

        From anywhere but a breakpoint this saves the step over it, which is a second stop.
        """
        self._stops.clear()
        self.execute("-exec-continue" if at is None else f"-exec-jump *{at:#x}")

    def step(self) -> None:
        """Let the stopped vCPU execute one instruction.

        Raises:
            GdbTimeoutError: it does not stop again.
        """
        self._stops.clear()
        self.execute("-exec-step-instruction")
        with self.target_errors():
            self._wait_not_running(self.timeout)

    def wait_stop(self, timeout: float) -> StopEvent:
        """Wait at most `timeout` seconds until the running target stops; return why.

        Raises:
            GdbTimeoutError: it still runs.
        """
        with self.target_errors():
            self._wait_not_running(timeout)
        return self._stops[-1] if self._stops else StopEvent("", None, None)

    @contextmanager
    def stopped(self) -> Iterator[Self]:
        """Hold the target stopped; let it run again at the end if it ran before."""
        was_running = self._running
        self.interrupt()
        try:
            yield self
        finally:
            if was_running and self._connected and not self._running:
                self.cont()

    def break_at(self, address: int) -> int:
        """Set a breakpoint at a virtual address; return its number.

        For a function the caller gives its *local* entry point: calls inside a
        module skip the global one (ELFv2 ABI, `st_other`).
        """
        result = self.execute(f"-break-insert -h *{address:#x}")
        return int(result.record.payload["bkpt"]["number"])

    def delete_breakpoint(self, number: int) -> None:
        """Remove the breakpoint `number`."""
        self.execute(f"-break-delete {number}")

    def read_registers(self, *names: str) -> dict[str, int]:
        """Return registers of the stopped vCPU by ISA name ("nip", "r3", "lpidr", "msr").

        Raises:
            TargetError: if the target has no such register.
        """
        self.require_stopped()
        with self.target_errors():
            if self._registers is None:
                self._registers = RegisterReader(
                    self.transport, big_endian=self._endian == "big", timeout=self.timeout
                )
            return self._registers.read(names, self.timeout)

    def read_context(self, address: int, length: int) -> bytes:
        """Return bytes at a virtual address as the stopped vCPU sees it, in a guest as well.

        b"" if nothing is mapped there. Only for a session in physical mode.
        """
        self.require_stopped()
        with self.target_errors():
            return stub.context_bytes(self.transport, address, length, self.timeout)

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at a physical address: the only call that changes the target.

        Raises:
            TargetError: if any byte of it is outside RAM.
        """
        if self._physical and not covered(self.ram, address, len(data)):
            raise TargetError(f"{len(data)} bytes at {address:#x} are not all in RAM")
        self.generation += 1
        self.execute(f'-data-write-memory-bytes {address:#x} "{data.hex()}"')

    def detach(self) -> None:
        """Undo physical mode, remove every breakpoint and leave the target running."""
        self.interrupt()
        with self.target_errors():
            if self._physical:
                stub.set_physical_mode(self.transport, False, self.timeout)
                self._physical = False
            self.transport.execute("-break-delete", self.timeout)
            self.transport.execute("-target-detach", self.timeout)
        self._connected = False
        self._lost = " (it was detached)"

    def close(self) -> None:
        """Detach if that is still possible, then end GDB. Bounded, and never raises for a target
        that is gone."""
        if self._closed:
            return
        self._closed = True
        try:
            # A target that does not answer must not cost every step's full timeout.
            self.timeout = min(self.timeout, 2.0)
            if self._connected and self.transport.alive:
                with suppress(MiError):
                    self.detach()
        finally:
            self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def target_errors(self) -> Iterator[None]:
        """Around direct use of the transport: tell a lost target from a refused command.

        Raises:
            TargetGoneError: in place of GDB's error, when the connection is lost.
        """
        try:
            yield
        except GdbCommandError as error:
            if not self._connected or any(text in error.reason for text in _LOST):
                self._lose(error)
            raise

    def _lose(self, error: GdbCommandError) -> NoReturn:
        self._connected = self._running = False
        raise TargetGoneError(
            f"the target at {self._endpoint} went away during "
            f"`{error.command[:100]}`: {error.reason}"
        ) from error

    def _wait_not_running(self, timeout: float) -> None:
        self.transport.wait(lambda: not self._running, timeout, "the target's stop")
        self.require_stopped()

    def _attach(self, endpoint: str, endian: Endian, physical: bool) -> None:
        self._endpoint, self._endian = endpoint, endian
        target = gdb_target(endpoint)
        for setting in (
            "mi-async on",
            "architecture powerpc:common64",
            f"endian {endian}",
            "tcp auto-retry off",
            f"tcp connect-timeout {max(1, int(self.timeout))}",
            # A busy emulator may be silent for a while; the deadline of each command is ours.
            "remotetimeout 30",
            "print frame-arguments none",
            "print entry-values no",
        ):
            self.transport.execute(f"-gdb-set {setting}", self.timeout)
        try:
            self.transport.execute(f"-target-select remote {target}", self.timeout)
        except GdbCommandError as error:
            raise TargetError(
                f"no gdbstub answers at {endpoint} ({error.reason}): "
                "start QEMU with `-gdb unix:PATH,server=on,wait=off` or `-gdb tcp::PORT`"
            ) from error
        except GdbTimeoutError as error:
            raise TargetError(
                f"{endpoint} accepts a connection but does not answer as a gdbstub: "
                "is another debugger attached to it?"
            ) from error
        self._connected = True
        self._wait_not_running(self.timeout)
        self._stops.clear()
        if physical:
            with self.target_errors():
                stub.set_physical_mode(self.transport, True, self.timeout)
            self._physical = True

    def _on_async(self, record: MiRecord) -> None:
        if record.message == "running":
            self._running = True
            self.generation += 1
        elif record.message == "stopped":
            self._running = False
            self._stops.append(_stop_event(record.payload))
        elif record.message == "thread-group-exited":
            self._connected = self._running = False


def _stop_event(payload: dict[str, Any]) -> StopEvent:
    frame = payload.get("frame")
    address = frame.get("addr") if isinstance(frame, dict) else None
    number = payload.get("bkptno")
    return StopEvent(
        str(payload.get("reason", "")),
        int(address, 16) if isinstance(address, str) and address.startswith("0x") else None,
        int(number) if isinstance(number, str) and number.isdigit() else None,
    )
