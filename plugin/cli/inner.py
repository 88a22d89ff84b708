"""`nestscope lab inner`: a machine whose guest is a whole Linux with guests of its own."""

import sys
import time
from typing import Annotated

import typer

from nestscope.plugin.cli.options import KernelName, Qemu

_WATCH_SECONDS = 0.25


def inner(
    kernel: KernelName = "6.12-64k",
    inside: Annotated[
        str, typer.Option("--inner", help="The inner kernel, also of `lab kernels`.")
    ] = "6.12-64k",
    cpus: Annotated[int, typer.Option(help="vCPUs of the outer machine.", min=1, max=8)] = 1,
    gdb_port: Annotated[
        int | None,
        typer.Option(
            help="Put QEMU's gdbstub on this loopback port, not on a unix socket.",
            min=1,
            max=65535,
        ),
    ] = None,
    start_after: Annotated[
        float, typer.Option(metavar="SECONDS", help="Start the inner Linux this much later.", min=0)
    ] = 10.0,
    qemu: Qemu = "qemu-system-ppc64",
) -> None:
    """Boot a kernel whose guest is a whole Linux, with nested guests of its own.

    Debian's QEMU for ppc64el is fetched and put into the outer machine's initramfs; there
    it starts the inner kernel with KVM. What the inner one does is shown on its console.
    The machine stays until the inner Linux has ended, or until Ctrl-C.

    Example: nestscope lab inner --gdb-port 1234
    """
    from nestscope.plugin.qemu.inner_linux import ENDED, InnerLinux
    from nestscope.plugin.qemu.kernels import fetch_kernel

    outer, guest = fetch_kernel(kernel), fetch_kernel(inside)
    with InnerLinux.boot(outer, guest, cpus=cpus, qemu=qemu, gdb_port=gdb_port) as lab:
        endpoint = str(lab.gdb_socket) if gdb_port is None else f"127.0.0.1:{gdb_port}"
        print(f"outer    {outer.release}, {cpus} vCPUs")
        print(f"inner    {guest.release}, starts in {start_after:g} s")
        print(f"follow   nestscope follow gdb:{endpoint} --ram {lab.files.ram}")
        print(f"console  {lab.files.console}")
        print("Ctrl-C ends the machine", flush=True)
        shown = len(lab.text)
        try:
            time.sleep(start_after)
            lab.go()
            while ENDED not in lab.text:
                lab.check()
                sys.stdout.write(lab.text[shown:])
                sys.stdout.flush()
                shown = len(lab.text)
                time.sleep(_WATCH_SECONDS)
            print(lab.text[shown:], end="")
        except KeyboardInterrupt:
            return
