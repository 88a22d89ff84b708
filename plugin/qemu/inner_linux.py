"""An outer machine whose guest is a whole Linux, which runs guests of its own.

    with InnerLinux.boot(outer, inner) as lab:
        lab.go()
        lab.wait(ENDED, 300)

The outer kernel has no agent: an init that starts QEMU (`inner/outer.c`). The inner
one has an init with a small VMM (`inner/inner.c`), whose guests are nested guests of
the outer kernel.
"""

import io
import shutil
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.build import digest, keep
from nestscope.plugin.qemu.console import Console
from nestscope.plugin.qemu.cpio import Entry, write_cpio
from nestscope.plugin.qemu.errors import LabError, LabFailure
from nestscope.plugin.qemu.inner_programs import FIRMWARE, LOADER, PROGRAM, fetch_inner_programs
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.machine import RunFiles, command_line, find_machine, memory_bytes
from nestscope.plugin.qemu.modules import lab_modules
from nestscope.plugin.qemu.process import Process, make_run_folder
from nestscope.plugin.qemu.program import build_program

QEMU = "qemu-system-ppc64"
MEMORY = "3G"
INNER_MEMORY = "512M"
INNER_MACHINE = (
    "pseries,cap-nested-hv=on,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,"
    "cap-ccf-assist=off,cap-large-decr=off,ic-mode=xics"
)
_SOURCES = Path(__file__).parent / "inner"
_READY = "nestscope-outer: ready"
ENDED = "nestscope-outer: inner ended"
"""What the outer init prints when the inner machine is gone, before its exit status."""
_BOOT_SECONDS = 120.0
_POLL_SECONDS = 0.1


def build_init(name: str) -> bytes:
    """Return the static executable of `inner/NAME.c`.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    return build_program(name, [_SOURCES / f"{name}.c"]).read_bytes()


def inner_command() -> list[str]:
    """Return the command that the outer machine starts the inner one with."""
    return [
        f"/{PROGRAM}",
        *("-accel", "kvm", "-cpu", "host", "-M", INNER_MACHINE, "-m", INNER_MEMORY),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-L", "/firmware"),
        *("-serial", "stdio", "-kernel", "/inner/vmlinux", "-initrd", "/inner/initramfs"),
        *("-append", "console=hvc0 loglevel=5 panic=-1"),
    ]


def _archive(entries: list[Entry]) -> bytes:
    archive = io.BytesIO()
    write_cpio(archive, entries)
    return archive.getvalue()


def _modules(kernel: KernelFiles) -> list[Entry]:
    return [
        Entry(f"modules/{i:02}-{name}.ko", elf)
        for i, (name, elf) in enumerate(lab_modules(kernel.modules_dir))
    ]


def _base(init: bytes, kernel: KernelFiles) -> list[Entry]:
    console = Entry("dev/console", device=(5, 1))
    return [Entry("dev"), console, Entry("init", init), Entry("modules"), *_modules(kernel)]


def build_initramfs(outer: KernelFiles, inner: KernelFiles) -> Path:
    """Return the outer initramfs, with the inner kernel and QEMU in it; cached.

    Raises:
        LabError: if something of it cannot be had.
    """
    programs = fetch_inner_programs()
    vmlinux = inner.vmlinux.read_bytes()
    inside = _archive(_base(build_init("inner"), inner))
    command = "\n".join(inner_command()).encode()
    init = build_init("outer")
    about = (programs / "about.json").read_bytes()
    key = digest(init, inside, command, about, outer.release.encode(), vmlinux)
    path = cache_root() / "inner" / f"initramfs-{key}"
    if path.exists():
        return path
    entries = _base(init, outer)
    entries += [Entry("lib"), Entry("lib64"), Entry("firmware"), Entry("inner")]
    for file in sorted(programs.iterdir()):
        if file.name == PROGRAM:
            entries.append(Entry(PROGRAM, file.read_bytes()))
        elif file.name == LOADER:
            entries.append(Entry(f"lib64/{LOADER}", file.read_bytes()))
        elif file.name == FIRMWARE:
            entries.append(Entry(f"firmware/{FIRMWARE}", file.read_bytes()))
        elif file.suffix != ".json":
            entries.append(Entry(f"lib/{file.name}", file.read_bytes()))
    entries += [
        Entry("inner/vmlinux", vmlinux),
        Entry("inner/initramfs", inside),
        Entry("inner/command", command),
    ]
    return keep(path, _archive(entries))


class InnerLinux:
    """A booted outer machine. Make it with `boot`; close it, or use it in `with`."""

    def __init__(self, outer: KernelFiles, files: RunFiles, process: Process) -> None:
        self.kernel = outer
        self.files = files
        self._process = process
        self._console = Console(files.console)
        self._text = ""
        self._channel: socket.socket | None = None

    @classmethod
    def boot(
        cls,
        outer: KernelFiles,
        inner: KernelFiles,
        *,
        machine: str = "pseries",
        cpus: int = 1,
        qemu: str = QEMU,
        gdb_port: int | None = None,
    ) -> Self:
        """Boot the outer machine until its init waits for `go`.

        Raises:
            LabError: if something is missing or QEMU cannot be started.
            LabFailure: if the machine fails.
        """
        program = shutil.which(qemu)
        if program is None:
            raise LabError(f"there is no {qemu}: install qemu-system-ppc")
        initramfs = build_initramfs(outer, inner)
        files = RunFiles(make_run_folder(memory_bytes(MEMORY)))
        try:
            command = command_line(
                program,
                files,
                outer.vmlinux,
                initramfs,
                machine=find_machine(machine),
                memory=MEMORY,
                gdb=gdb_port is None,
                gdb_port=gdb_port,
            )
            command[command.index("-smp") + 1] = str(cpus)
            process = Process(files.folder, command)
        except BaseException:
            shutil.rmtree(files.folder, ignore_errors=True)
            raise
        lab = cls(outer, files, process)
        try:
            lab.wait(_READY, _BOOT_SECONDS)
        except BaseException:
            lab.close()
            raise
        return lab

    @property
    def gdb_socket(self) -> Path:
        """The gdbstub's unix socket."""
        return self.files.gdb

    @property
    def text(self) -> str:
        """Everything that outer and inner consoles have printed so far."""
        self._text += self._console.poll()
        return self._text

    def go(self) -> None:
        """Let the outer init start the inner Linux."""
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.settimeout(10)
        try:
            self._channel.connect(str(self.files.agent))
            self._channel.sendall(b"g")
        except OSError as problem:
            raise LabError(f"QEMU's channel does not open ({problem}): boot again") from problem

    def check(self) -> None:
        """Look once whether the machine still works.

        Raises:
            LabFailure: if it does not.
        """
        status = self._process.ended()
        if status is not None:
            what = f"QEMU ended ({status}): {self._process.log_tail()}"
            raise LabFailure("died", what, self._console.tail(30))
        sign = self._console.failure()
        if sign is not None:
            raise LabFailure(sign.kind, f"the console says '{sign.line}'", self._console.tail(60))

    def wait(self, line: str, seconds: float) -> None:
        """Wait until the consoles have printed `line`.

        Raises:
            LabFailure: if the machine fails, or does not print it within `seconds`.
        """
        limit = time.monotonic() + seconds
        while line not in self.text:
            self.check()
            if time.monotonic() > limit:
                what = f"'{line}' did not come within {seconds:.0f} s"
                raise LabFailure("hung", what, self._console.tail(30))
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End QEMU and remove the run directory."""
        if self._channel is not None:
            self._channel.close()
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
