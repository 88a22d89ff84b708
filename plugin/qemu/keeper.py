"""Run QEMU and clean up after it, whatever happens to the program that asked.

A script of its own, started by path (it imports nothing of ours, so it is up in
milliseconds): `keeper.py RUN_DIRECTORY QEMU ARGUMENT...`. It writes `pid N` and,
when QEMU ends by itself, `exit STATUS` to standard output. When standard input
ends (the lab was closed, or its process was killed, even with SIGKILL), it ends
QEMU and removes the run directory.

Limit: SIGKILL to keeper and lab at the same moment still ends QEMU (parent death
signal), but leaves the directory; the next boot removes it.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_TERM_SECONDS = 2.0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(text: str) -> None:
    # The lab may be gone already; cleaning up is then all that is left to do.
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_TERM_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main(run_directory: str, command: list[str]) -> int:
    """Keep QEMU until standard input ends. Returns 0, or 1 if QEMU could not be started."""
    # Ctrl-C in a terminal is for the lab, which then closes our standard input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(run_directory)
    # Renamed when held: a free lock of this name means that its keeper is gone.
    lock = (folder / "lock.new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "lock.new").rename(folder / "lock")
    try:
        with (folder / "qemu.log").open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (no threads yet in this process)
                start_new_session=True,
            )
    except OSError as problem:
        _say(f"error {problem}")
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    _say(f"pid {child.pid}")
    threading.Thread(target=lambda: _say(f"exit {child.wait()}"), daemon=True).start()
    while True:
        select.select([0], [], [])
        if not os.read(0, 4096):
            break
    _end(child)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
