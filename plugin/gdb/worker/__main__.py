"""The worker: `python -m nestscope.plugin.gdb.worker PID`, started by GDB (process PID)."""

import ctypes
import os
import signal
import sys

from nestscope.plugin.gdb.worker.gdb_side import GdbGoneError, GdbSide
from nestscope.plugin.gdb.worker.serve import serve

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve GDB's commands until it closes the pipe, or ends in any other way."""
    parent = int(sys.argv[1])
    # End of file on the pipe would be noticed between two messages only.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 0
    incoming, outgoing = os.dup(0), os.dup(1)
    # Nothing but messages may reach the pipe.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        serve(GdbSide(incoming, outgoing))
    except GdbGoneError:
        return 0
    return 0


sys.exit(main())
