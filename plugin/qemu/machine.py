"""QEMU's command line for each machine of the lab."""

from dataclasses import dataclass
from pathlib import Path

from nestscope.plugin.qemu.errors import LabError

DEFAULT_MACHINE = "pseries"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of the lab: QEMU's `-machine` options, `-cpu`, and what differs around them.

    `memory`: RAM unless another size is asked for. `bare_metal`: the kernel is the
    bottom hypervisor (`kvmhv_on_pseries()` is false) on skiboot, which comes with
    QEMU; otherwise it is the guest of one.
    """

    name: str
    options: str
    cpu: str
    memory: str
    bare_metal: bool

    @property
    def console(self) -> tuple[str, ...]:
        """The arguments for a console on chardev `console`: the kernel's hvc0 in any case."""
        return (
            ("-serial", "chardev:console")
            if self.bare_metal
            else ("-device", "spapr-vty,chardev=console")
        )

    @property
    def channel(self) -> tuple[str, ...]:
        """The arguments for a virtio port on chardev `agent`."""
        port = ("-device", "virtserialport,chardev=agent")
        if not self.bare_metal:
            return ("-device", "virtio-serial-pci", *port)
        # Of the six PCI host bridges that powernv has by default skiboot trains each
        # for a second; one with a root port is enough.
        return (
            *("-device", "pnv-phb,chip-id=0,index=0,id=phb"),
            *("-device", "pnv-phb-root-port,bus=phb,id=pcie.0"),
            *("-device", "virtio-serial-pci,bus=pcie.0", *port),
            # Without a BMC QEMU warns.
            *("-device", "ipmi-bmc-sim,id=bmc", "-device", "isa-ipmi-bt,bmc=bmc,irq=10"),
        )


# Virtual Open Firmware instead of SLOF is what makes the boot quick; TCG can
# offer none of the mitigations of cfpc, sbbc, ibs and ccf-assist.
_PSERIES = (
    "pseries,cap-nested-hv=on,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,"
    "cap-ibs=broken,cap-ccf-assist=off"
)

MACHINES = {
    machine.name: machine
    for machine in (
        Machine("pseries", _PSERIES, "POWER9", "1G", bare_metal=False),
        Machine("pseries-power10", _PSERIES, "POWER10", "1G", bare_metal=False),
        Machine("powernv9", "powernv9", "POWER9", "2G", bare_metal=True),
        Machine("powernv10", "powernv10", "POWER10", "2G", bare_metal=True),
    )
}
# loglevel=5: warnings reach the console too, and nothing less important.
# damon_stat: where distributions switch it on (369c415e6073, 6.17), it ages pages of its own
# choice all the time, and nobody else may use DAMON. Older kernels pass over the parameter.
_KERNEL_COMMAND_LINE = "console=hvc0 loglevel=5 panic=0 damon_stat.enabled=0"
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
    def counters(self) -> Path:
        """How often each instruction of the kernel's modules ran, if that is counted."""
        return self.folder / "counters"

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


def find_machine(name: str) -> Machine:
    """Return a machine of the lab.

    Raises:
        LabError: if there is none of this name.
    """
    try:
        return MACHINES[name]
    except KeyError:
        raise LabError(f"there is no machine '{name}': use one of {', '.join(MACHINES)}") from None


def command_line(
    qemu: str,
    files: RunFiles,
    kernel: Path,
    initramfs: Path,
    *,
    machine: Machine,
    memory: str,
    gdb: bool,
    gdb_port: int | None,
    processors: int = 1,
) -> list[str]:
    """Return QEMU and its arguments.

    Raises:
        LabError: for a run directory too deep for a unix socket.
    """
    if len(str(files.console)) > _SOCKET_PATH_LIMIT or "," in str(files.folder):
        raise LabError(f"{files.folder} cannot hold unix sockets: set TMPDIR to a short path")
    size = f"size={memory_bytes(memory)}"
    command = [
        *(qemu, "-machine", f"{machine.options},memory-backend=ram"),
        *(
            "-cpu",
            machine.cpu,
            "-accel",
            "tcg",
            "-m",
            f"{memory_bytes(memory) >> 20}M",
            "-smp",
            str(processors),
        ),
        *("-object", f"memory-backend-file,id=ram,{size},mem-path={files.ram},share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        # A panicked machine stays, so that its memory can still be read.
        *("-action", "panic=pause"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", _KERNEL_COMMAND_LINE),
        *("-chardev", f"file,id=console,path={files.console}"),
        *machine.console,
        *("-chardev", f"socket,id=qmp,path={files.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        # A virtio port: a second spapr-vty answers a single line sooner (0.3 ms against
        # 0.7 ms), but carries 16 bytes an interrupt, 30 ms for a 4 KiB write against 2 ms.
        *("-chardev", f"socket,id=agent,path={files.agent},server=on,wait=off"),
        *machine.channel,
    ]
    if gdb_port is not None:
        command += ["-gdb", f"tcp:127.0.0.1:{gdb_port}"]
    elif gdb:
        command += ["-chardev", f"socket,id=gdb,path={files.gdb},server=on,wait=off"]
        command += ["-gdb", "chardev:gdb"]
    return command
