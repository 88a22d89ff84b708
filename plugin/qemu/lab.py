"""The lab: a kernel with kvm-hv in a QEMU machine, and an agent in it that takes commands.

    with Lab.boot(kernel) as lab:
        lab.agent.run(["hello"])

While a call of this module waits, the console and QEMU are watched: a failure of
the machine is a `LabFailure` within 10 s.
"""

import shutil
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from nestscope.plugin.qemu.channel import Agent, Reply
from nestscope.plugin.qemu.console import Console
from nestscope.plugin.qemu.counters import counting
from nestscope.plugin.qemu.errors import FailureKind, LabError, LabFailure
from nestscope.plugin.qemu.initramfs import build_initramfs
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.machine import (
    DEFAULT_MACHINE,
    Machine,
    RunFiles,
    command_line,
    find_machine,
    memory_bytes,
)
from nestscope.plugin.qemu.probe import Behaviour, observe_behaviour
from nestscope.plugin.qemu.process import Process, make_run_folder
from nestscope.plugin.qemu.qmp import Qmp

QEMU = "qemu-system-ppc64"
_BOOT_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_TAIL_LINES = 60
_DEATH_SECONDS = 2.0
# A failing kernel prints for a while; the message is better with all of it.
_SETTLE_SECONDS = 0.5


class Lab:
    """A booted machine. Make it with `Lab.boot`; close it, or use it in `with`."""

    def __init__(
        self, kernel: KernelFiles, machine: Machine, files: RunFiles, process: Process
    ) -> None:
        self.kernel = kernel
        self.machine = machine
        self._files = files
        self._process = process
        self._console = Console(files.console)
        self._agent: Agent | None = None
        self.qmp = Qmp(files.qmp)
        self.hello: Reply | None = None
        self._behaviour: Behaviour | None = None

    @classmethod
    def boot(
        cls,
        kernel: KernelFiles,
        *,
        machine: str = DEFAULT_MACHINE,
        memory: str | None = None,
        qemu: str = QEMU,
        gdb: bool = True,
        gdb_port: int | None = None,
        coverage: bool = False,
        processors: int = 1,
    ) -> Self:
        """Boot `kernel` and return when its agent has answered.

        `machine` is a name of `machine.MACHINES`; `memory` is a size such as "1G", or
        None for what that machine needs. `gdb` puts QEMU's gdbstub on a unix socket
        (`gdb_socket`); `gdb_port` on a loopback port instead. `coverage` has the
        instructions counted that run in the kernel's modules (`counters.Counters`).
        `processors` is how many the kernel has; the agent's VMM uses one.

        Raises:
            LabError: if something is missing or QEMU cannot be started.
            LabFailure: if the machine fails before the agent answers.
        """
        hardware = find_machine(machine)
        memory = memory or hardware.memory
        program = shutil.which(qemu)
        if program is None:
            raise LabError(f"there is no {qemu}: install qemu-system-ppc, or give --qemu")
        initramfs = build_initramfs(kernel.modules_dir)
        files = RunFiles(make_run_folder(memory_bytes(memory)))
        try:
            command = command_line(
                program,
                files,
                kernel.vmlinux,
                initramfs,
                machine=hardware,
                memory=memory,
                gdb=gdb,
                gdb_port=gdb_port,
                processors=processors,
            )
            if coverage:
                size = memory_bytes(memory)
                command += counting(Path(program), files.counters, files.ram, size)
            process = Process(files.folder, command)
        except BaseException:
            shutil.rmtree(files.folder, ignore_errors=True)
            raise
        lab = cls(kernel, hardware, files, process)
        try:
            lab._connect()
        except BaseException:
            lab.close()
            raise
        return lab

    def _connect(self) -> None:
        limit = time.monotonic() + _CONNECT_SECONDS
        connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                connection.connect(str(self._files.agent))
                break
            except OSError as problem:
                if time.monotonic() > limit:
                    connection.close()
                    raise LabError(f"QEMU's sockets do not appear ({problem})") from problem
                if self._process.ended():
                    connection.close()
                self.check()
                time.sleep(0.01)
        self._agent = Agent(connection, self.check, self._silent)
        self.qmp.connect(self.check)
        (self.hello,) = self._agent.run(["hello"], timeout=_BOOT_SECONDS)
        if self.hello.error:
            raise LabError(f"the kernel has no usable kvm-hv: {self.hello.error}")
        if self.hello["nested_hv"] != 1:
            raise LabError("this kernel's kvm-hv cannot nest guests on this machine: use another")

    @property
    def agent(self) -> Agent:
        """The agent's command channel."""
        assert self._agent is not None
        return self._agent

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def run_folder(self) -> Path:
        """The run directory; gone after `close`."""
        return self._files.folder

    @property
    def ram_path(self) -> Path:
        """The machine's RAM as a shared file."""
        return self._files.ram

    @property
    def gdb_socket(self) -> Path:
        """The gdbstub's unix socket."""
        return self._files.gdb

    @property
    def page_size(self) -> int:
        """The kernel's base page size in bytes."""
        assert self.hello is not None
        return self.hello["page_size"]

    @property
    def behaviour(self) -> Behaviour:
        """How machine and kernel behave; asked once, before the first VM is made.

        Raises:
            LabError: if it is asked first when there is a VM.
        """
        if self._behaviour is None:
            self._behaviour = observe_behaviour(self.agent)
        return self._behaviour

    @property
    def files(self) -> RunFiles:
        """The run's files and sockets; gone after `close`."""
        return self._files

    def hand_over(self) -> None:
        """Leave QMP and the agent's channel, which take one client each, to other programs."""
        self.agent.close()
        self.qmp.close()

    def ended(self) -> str | None:
        """Return how QEMU ended ("status 1", "signal 9"), or None while it runs."""
        return self._process.ended()

    def console_tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines that the kernel printed."""
        return self._console.tail(lines)

    def warnings(self) -> list[str]:
        """Return the headlines of the kernel's WARNING splats; they are not failures."""
        return self._console.warnings()

    def check(self) -> None:
        """Look once, without waiting, whether the machine still works.

        Raises:
            LabFailure: if it does not.
        """
        sign = self._console.failure()
        if sign is not None:
            time.sleep(_SETTLE_SECONDS)
            sign = self._console.failure() or sign
            raise self._failure(sign.kind, f"the kernel says '{sign.line}'")
        status = self._process.ended()
        if status is not None:
            # QEMU's own last words come first: it may never have started the kernel.
            log = self._process.log_tail()
            raise self._failure("died", f"QEMU ended ({status})" + (f": {log}" if log else ""))

    def _silent(self, what: str) -> Exception:
        try:
            status = self.qmp.status()
        except LabError as problem:
            # Its sockets close before its end is reported.
            limit = time.monotonic() + _DEATH_SECONDS
            while time.monotonic() < limit:
                self.check()
                time.sleep(0.05)
            return self._failure("hung", f"{what}; {problem}")
        if status != "running":
            return self._failure("hung", f"{what}: the machine is stopped ({status}), continue it")
        return self._failure("hung", what)

    def _failure(self, kind: FailureKind, what: str) -> LabFailure:
        return LabFailure(kind, what, self._console.tail(_TAIL_LINES))

    def close(self) -> None:
        """End QEMU and remove the run directory; bounded, and may be called twice."""
        if self._agent is not None:
            self._agent.close()
        self.qmp.close()
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
