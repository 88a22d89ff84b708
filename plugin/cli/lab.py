"""`nestscope lab`: the QEMU machine and its kernels."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import (
    KERNEL_HELP,
    KernelName,
    MachineName,
    Modules,
    Qemu,
    Vmlinux,
)

if TYPE_CHECKING:
    from nestscope.plugin.qemu.lab import Lab

app = typer.Typer(help="The QEMU machine that the kernels run in.", no_args_is_help=True)

_WATCH_SECONDS = 0.25

_GdbPort = Annotated[
    int | None,
    typer.Option(
        help="Put QEMU's gdbstub on this loopback port, not on a unix socket.", min=1, max=65535
    ),
]
_MemorySize = Annotated[
    str | None, typer.Option("--memory", help="RAM, such as 2G; default: what the machine needs.")
]


@app.command()
def kernels() -> None:
    """List the kernels that the lab knows, and which of them are here.

    Others have the name of a suite of Debian (sid, sid-64k, trixie-backports), or
    of one build in it (bookworm:6.1.0-47-powerpc64le).
    """
    from nestscope.plugin.present.tables import plain_table
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.qemu.kernels import cached_kernel, cached_names

    table = plain_table()
    table.add_column("name")
    table.add_column("release")
    table.add_column("vmlinux", overflow="fold")
    for name in cached_names():
        kernel = cached_kernel(name)
        if kernel is None:
            table.add_row(name, "not fetched", f"nestscope lab fetch {name}")
        else:
            table.add_row(name, kernel.release, str(kernel.vmlinux))
    terminal().print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help=KERNEL_HELP)] = "6.12-64k",
    fetch_all: Annotated[bool, typer.Option("--all", help="Fetch every kernel.")] = False,
    refresh: Annotated[bool, typer.Option(help="Fetch the newest even if one is here.")] = False,
) -> None:
    """Fetch a kernel from Debian into the cache; does nothing if it is there.

    Examples:
      nestscope lab fetch 6.12-4k
      nestscope lab fetch sid-64k
    """
    from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel

    for wanted in FLAVOURS if fetch_all else (name,):
        kernel = fetch_kernel(wanted, refresh=refresh)
        print(f"{wanted}: {kernel.release}")


@app.command(name="fetch-qemu")
def fetch_qemu(
    suite: Annotated[str, typer.Argument(help="A suite of Debian: trixie, sid, ...")],
    refresh: Annotated[bool, typer.Option(help="Fetch the newest even if one is here.")] = False,
) -> None:
    """Fetch the QEMU of another release of Debian into the cache, and say what --qemu takes.

    Example: nestscope lab fetch-qemu trixie
    """
    from nestscope.plugin.qemu.other_qemu import fetch_qemu as fetch

    print(fetch(suite, refresh=refresh))


@app.command()
def boot(
    kernel: KernelName = "6.12-64k",
    machine: MachineName = "pseries",
    memory: _MemorySize = None,
    gdb_port: _GdbPort = None,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    qemu: Qemu = "qemu-system-ppc64",
) -> None:
    """Boot a kernel, say what to connect to, and stay until Ctrl-C.

    Example: nestscope lab boot --machine powernv9 --gdb-port 1234
    """
    with _booted(kernel, machine, memory, gdb_port, vmlinux, modules, qemu) as lab:
        _stay(lab, gdb_port)


@app.command()
def run(
    trace: Annotated[
        Path | None, typer.Argument(help="A trace file to execute.", dir_okay=False)
    ] = None,
    random_steps: Annotated[
        int | None, typer.Option("--random", metavar="STEPS", min=1, help="Random operations.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random operations.")] = 1,
    dump: Annotated[
        Path | None, typer.Option(help="Write a dump there and end.", dir_okay=False)
    ] = None,
    dump_format: Annotated[
        str, typer.Option("--format", help="Of the dump: elf, kdump-zlib, kdump-lzo, ...")
    ] = "elf",
    kernel: KernelName = "6.12-64k",
    machine: MachineName = "pseries",
    memory: _MemorySize = None,
    gdb_port: _GdbPort = None,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    qemu: Qemu = "qemu-system-ppc64",
) -> None:
    """Execute operations on a live kernel, without the model, and keep it for GDB.

    Without TRACE and --random the built-in scenario is executed. With --dump the
    memory is written to a file, and the machine ends.

    Examples:
      nestscope lab run --random 500 --gdb-port 1234
      nestscope lab run my.trace --dump my.dump --format kdump-zlib
    """
    from nestscope.plugin.differential.plan import make_plan
    from nestscope.plugin.differential.session import open_machine
    from nestscope.plugin.output import new_path
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.present.units import count
    from nestscope.plugin.qemu.qmp import DUMP_FORMATS
    from nestscope.sim.guest import Guest

    plan = make_plan(trace, random_steps, seed)
    if dump_format not in DUMP_FORMATS:
        raise NestscopeError(f"--format is one of {', '.join(DUMP_FORMATS)}, not {dump_format!r}")
    if dump is not None and not dump.absolute().parent.is_dir():
        raise NestscopeError(f"{dump} cannot be written: there is no folder {dump.parent}")
    with _booted(kernel, machine, memory, gdb_port, vmlinux, modules, qemu) as lab:
        with open_machine(lab) as live:
            guest = Guest()
            live.machine.execute(guest.setup())
            started = time.monotonic()
            for operation in plan.operations:
                live.machine.execute(guest.lower(operation))
            seconds = time.monotonic() - started
        terminal().print(f"{count(plan.total)} operations executed in {seconds:.1f} s")
        if dump is not None:
            with new_path(dump) as part:
                lab.qmp.dump_guest_memory(part.absolute(), dump_format)
            terminal().print(f"dumped to {dump.absolute()}", soft_wrap=True)
            return
        _stay(lab, gdb_port)


@contextmanager
def _booted(
    kernel: str,
    machine: str,
    memory: str | None,
    gdb_port: int | None,
    vmlinux: Path | None,
    modules: Path | None,
    qemu: str,
) -> "Iterator[Lab]":
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.qemu.kernels import choose_kernel
    from nestscope.plugin.qemu.lab import Lab

    files = choose_kernel(kernel, vmlinux, modules)
    started = time.monotonic()
    with Lab.boot(files, machine=machine, memory=memory, qemu=qemu, gdb_port=gdb_port) as lab:
        seconds = time.monotonic() - started
        terminal().print(f"{files.release} on {machine}, booted in {seconds:.1f} s")
        yield lab


def _stay(lab: "Lab", gdb_port: int | None) -> None:
    """Say what to connect to, then keep the machine until Ctrl-C or its end.

    A kernel that fails is reported and stays: its memory can still be examined.
    """
    from nestscope.plugin.qemu.errors import LabError, LabFailure

    endpoint = str(lab.files.gdb) if gdb_port is None else f"127.0.0.1:{gdb_port}"
    lab.hand_over()
    for name, value in (
        ("gdb", f"gdb-multiarch {lab.kernel.vmlinux} -ex 'target remote {endpoint}'"),
        ("state", f"nestscope state ram:{lab.files.ram}"),
        ("ram", str(lab.files.ram)),
        ("qmp", str(lab.files.qmp)),
        ("agent", str(lab.files.agent)),
        ("console", str(lab.files.console)),
        ("modules", str(lab.kernel.modules_dir)),
    ):
        print(f"{name:8} {value}")
    print("Ctrl-C ends the machine", flush=True)
    failed = False
    try:
        while (status := lab.ended()) is None:
            if not failed:
                try:
                    lab.check()
                except LabFailure as failure:
                    failed = True
                    print(f"nestscope: {failure}", file=sys.stderr)
            time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        return
    raise LabError(f"QEMU ended ({status}): boot again")
