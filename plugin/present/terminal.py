"""The terminal that tables and figures are printed to."""

import os
import sys
from typing import NoReturn

from rich.console import Console


class Terminal(Console):
    """A console whose reader may leave (`| head`) without that being an error."""

    def on_broken_pipe(self) -> NoReturn:
        """End cleanly; the default status 1 would mean "differences" here."""
        leave_quietly()


def leave_quietly() -> NoReturn:
    """Exit with 0 when nobody reads standard output any more."""
    drop_output()
    sys.exit(0)


def drop_output() -> None:
    """Point standard output at nothing.

    The interpreter flushes it at exit, and would complain about what cannot be written.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def terminal() -> Terminal:
    """Return the terminal on standard output: no colouring of bare numbers.

    Square brackets are no markup: names of files and texts from memory may hold some.
    """
    return Terminal(highlight=False, markup=False)
