"""The `nestscope` command: how it begins, and how errors leave it.

Exit status: 0 clean, 1 findings or differences, 2 could not do it (one line on
standard error says what and what to do), 130 interrupted.
"""

import atexit
import errno
import gc
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from nestscope.decoders.errors import NestscopeError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What the end of a disk, a quota or a device says of standard output."""


def run() -> None:
    """Run the command line; every failure becomes one line and status 2."""
    # NumPy's linear algebra, which is not used here, would spend some 50 ms on threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The last thing before the end, when a search for cycles in all modules takes some 40 ms.
    atexit.register(gc.freeze)
    _prepare_output()
    try:
        # Only here, as it takes a while and may be interrupted, too.
        from nestscope.plugin.cli.app import app

        app()
    except NestscopeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
            from nestscope.plugin.present.terminal import drop_output

            drop_output()
            _fail(f"standard output cannot be written: {error.strerror}")
        # A defect of nestscope itself: still one line, unless it is being looked for.
        if os.environ.get("NESTSCOPE_TRACEBACK"):
            raise
        _fail(
            f"internal error: {type(error).__name__}: {error}; "
            "please report it with what NESTSCOPE_TRACEBACK=1 prints"
        )


def _prepare_output() -> None:
    """Let the output be of any encoding, or closed by who has started us."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  for the life of the process
    if isinstance(sys.stdout, TextIOWrapper):
        # Box drawing is more than some encodings have; `?` is better than no output.
        sys.stdout.reconfigure(errors="replace")


def _interrupted() -> NoReturn:
    print("nestscope: interrupted", file=sys.stderr)
    sys.exit(130)


def _fail(sentence: str) -> NoReturn:
    print(f"nestscope: {sentence}", file=sys.stderr)
    sys.exit(2)
