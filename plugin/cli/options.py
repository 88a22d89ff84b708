"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from nestscope.plugin.cli.complete import kernels, machines, sources

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A dump file or the folder with the parts of one, gdb:HOST:PORT or gdb:SOCKET "
        "(a QEMU gdbstub), ram:FILE (QEMU's shared RAM file), or sample:NAME.",
        show_default="the first sample",
        autocompletion=sources,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Vmlinux = Annotated[
    Path | None, typer.Option(help="The kernel's ELF image, whatever its name.", dir_okay=False)
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="What is needed of the kernel's types, made by `nestscope profile make`.",
        dir_okay=False,
    ),
]
DebugFolder = Annotated[
    Path | None,
    typer.Option("--debug", help="Searched below for the kernel's debug files.", file_okay=False),
]
Modules = Annotated[
    Path | None,
    typer.Option(help="Searched below for NAME.ko, .ko.xz, .ko.zst, .ko.gz.", file_okay=False),
]
MachineName = Annotated[
    str,
    typer.Option(
        "--machine",
        help="The machine: pseries, pseries-power10, powernv9 or powernv10.",
        autocompletion=machines,
    ),
]
KERNEL_HELP = "A kernel of `lab kernels`, or a suite of Debian: sid, sid-64k, SUITE:RELEASE."
OWN_MODULE_HELP = (
    "NAME@FILE.ko[,0001...] loads a module that you have built in the place of its own, "
    "which mends these findings."
)
KernelName = Annotated[
    str,
    typer.Option("--kernel", help=f"{KERNEL_HELP} {OWN_MODULE_HELP}", autocompletion=kernels),
]
Qemu = Annotated[str, typer.Option("--qemu", help="The QEMU program.")]
