"""Make nestscope known to GDB: called once by the loader."""

import gdb

from .breakpoints import register_breakpoints
from .commands import Link, register_commands
from .functions import register_functions
from .printers import register_printers


def start(python: str) -> None:
    """Register everything; `python` is the interpreter that the worker runs in."""
    link = Link(python)
    register_commands(link)
    register_breakpoints(link)
    register_functions(link)
    register_printers(link)
    exiting = getattr(gdb.events, "gdb_exiting", None)
    if exiting is not None:
        exiting.connect(lambda _: link.worker.end())
