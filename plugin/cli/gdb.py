"""`nestscope gdb`: GDB with the plugin loaded."""

import os
from typing import Annotated

import typer


def gdb(
    context: typer.Context,
    print_line: Annotated[
        bool,
        typer.Option("--print", help="Print the line that loads the plugin into any GDB, and end."),
    ] = False,
    program: Annotated[
        str, typer.Option("--gdb", help="The GDB program, 12 or later, with Python.")
    ] = "gdb-multiarch",
) -> None:
    """Start GDB with the commands `nested ...`; all other arguments go to GDB.

    Examples:
      nestscope gdb vmlinux -ex 'target remote localhost:1234' -ex 'nested vms'
      nestscope gdb --print >> ~/.gdbinit
    """
    from nestscope.plugin.gdb.loader import check_gdb, write_loader

    loader = write_loader()
    if print_line:
        print(f"source {loader}")
        return
    check_gdb(program)
    os.execvp(program, [program, "-iex", f"source {loader}", *context.args])
