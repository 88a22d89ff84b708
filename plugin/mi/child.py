"""A child process that never outlives us."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None]:
    """Return what a child calls before exec, so that the kernel kills it when this thread ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask_for_death() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)

    return ask_for_death


def start_child(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start `argv` with three pipes; the kernel kills it when this thread ends."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - between fork and exec it only calls prctl
        start_new_session=True,  # the terminal's Ctrl-C is for us to handle
        env={**os.environ, "LC_ALL": "C", "HOME": "/nonexistent"},
    )


def nonblocking(stream: IO[bytes] | None) -> int:
    """Return the stream's descriptor, switched to non-blocking."""
    assert stream is not None
    os.set_blocking(stream.fileno(), False)
    return stream.fileno()
