"""`nestscope lab`: the QEMU machine and its kernels."""

from typing import Annotated

import typer

app = typer.Typer(help="The QEMU machine that the kernels run in.", no_args_is_help=True)


@app.command()
def kernels() -> None:
    """List the kernels that the lab knows, and which of them are here."""
    from rich import box
    from rich.table import Table

    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.qemu.kernels import FLAVOURS, cached_kernel

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name")
    table.add_column("release")
    table.add_column("vmlinux", overflow="fold")
    for name in FLAVOURS:
        kernel = cached_kernel(name)
        if kernel is None:
            table.add_row(name, "not fetched", f"nestscope lab fetch {name}")
        else:
            table.add_row(name, kernel.release, str(kernel.vmlinux))
    terminal().print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A kernel of `lab kernels`.")] = "6.12-64k",
    fetch_all: Annotated[bool, typer.Option("--all", help="Fetch every kernel.")] = False,
    refresh: Annotated[bool, typer.Option(help="Fetch the newest even if one is here.")] = False,
) -> None:
    """Fetch a kernel from Debian into the cache; does nothing if it is there.

    Example: nestscope lab fetch 6.12-4k
    """
    from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel

    for wanted in FLAVOURS if fetch_all else (name,):
        kernel = fetch_kernel(wanted, refresh=refresh)
        print(f"{wanted}: {kernel.release}")
