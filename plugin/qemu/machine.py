"""QEMU's command line for each machine of the lab."""

from dataclasses import dataclass
from pathlib import Path

from nestscope.plugin.qemu.errors import LabError

# Virtual Open Firmware instead of SLOF is what makes the boot quick; TCG can
# offer none of the mitigations of cfpc, sbbc, ibs and ccf-assist.
_MACHINES: dict[str, str] = {
    "pseries": "pseries,cap-nested-hv=on,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,"
    "cap-ibs=broken,cap-ccf-assist=off",
}
# loglevel=5: warnings reach the console too, and nothing less important.
_KERNEL_COMMAND_LINE = "console=hvc0 loglevel=5 panic=0"
_SOCKET_PATH_LIMIT = 107

_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory_bytes(text: str) -> int:
    """Return the bytes of a QEMU memory size: "1G", "512M", "1024" (MiB).

    Raises:
        LabError: if it is not one.
    """
    digits = text.rstrip("KMGkmg")
    unit = text[len(digits) :].upper()
    if not digits.isdecimal() or unit not in _UNITS:
        raise LabError(f"'{text}' is not a memory size: write it like 1G or 512M")
    return int(digits) * _UNITS[unit]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files and sockets of one run, all in its run directory."""

    folder: Path

    @property
    def ram(self) -> Path:
        """The machine's RAM, a shared file: offset 0 is physical address 0."""
        return self.folder / "ram"

    @property
    def console(self) -> Path:
        """What the kernel printed."""
        return self.folder / "console.log"

    @property
    def qmp(self) -> Path:
        """QMP's unix socket."""
        return self.folder / "qmp.sock"

    @property
    def agent(self) -> Path:
        """The agent channel's unix socket."""
        return self.folder / "agent.sock"

    @property
    def gdb(self) -> Path:
        """The gdbstub's unix socket."""
        return self.folder / "gdb.sock"

    @property
    def qemu_log(self) -> Path:
        """What QEMU itself printed."""
        return self.folder / "qemu.log"


def command_line(
    qemu: str,
    files: RunFiles,
    kernel: Path,
    initramfs: Path,
    *,
    machine: str,
    cpu: str,
    memory: str,
    gdb: bool,
    gdb_port: int | None,
) -> list[str]:
    """Return QEMU and its arguments.

    Raises:
        LabError: for an unknown machine, or a run directory too deep for a unix socket.
    """
    if machine not in _MACHINES:
        raise LabError(f"there is no machine '{machine}': use one of {', '.join(_MACHINES)}")
    if len(str(files.console)) > _SOCKET_PATH_LIMIT or "," in str(files.folder):
        raise LabError(f"{files.folder} cannot hold unix sockets: set TMPDIR to a short path")
    size = f"size={memory_bytes(memory)}"
    command = [
        *(qemu, "-machine", f"{_MACHINES[machine]},memory-backend=ram"),
        *("-cpu", cpu, "-accel", "tcg", "-m", f"{memory_bytes(memory) >> 20}M", "-smp", "1"),
        *("-object", f"memory-backend-file,id=ram,{size},mem-path={files.ram},share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        # A panicked machine stays, so that its memory can still be read.
        *("-action", "panic=pause"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", _KERNEL_COMMAND_LINE),
        *("-chardev", f"file,id=console,path={files.console}"),
        *("-device", "spapr-vty,chardev=console"),
        *("-chardev", f"socket,id=qmp,path={files.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        # A virtio port: a second spapr-vty answers a single line sooner (0.3 ms against
        # 0.7 ms), but carries 16 bytes an interrupt, 30 ms for a 4 KiB write against 2 ms.
        *("-chardev", f"socket,id=agent,path={files.agent},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent"),
    ]
    if gdb_port is not None:
        command += ["-gdb", f"tcp:127.0.0.1:{gdb_port}"]
    elif gdb:
        command += ["-chardev", f"socket,id=gdb,path={files.gdb},server=on,wait=off"]
        command += ["-gdb", "chardev:gdb"]
    return command
