"""Make nestscope known to GDB: called once by the loader."""

import gdb

from .commands import Link, register_commands


def start(python: str) -> None:
    """Register everything; `python` is the interpreter that the worker runs in."""
    link = Link(python)
    register_commands(link)
    exiting = getattr(gdb.events, "gdb_exiting", None)
    if exiting is not None:
        exiting.connect(lambda _: link.worker.end())
