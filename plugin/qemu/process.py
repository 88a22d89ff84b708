"""QEMU's process and its run directory; see `keeper.py` for who cleans up."""

import fcntl
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nestscope.plugin.qemu.errors import LabError

_PREFIX = "nestscope-"
_KEEPER = Path(__file__).with_name("keeper.py")
_SHARED_MEMORY = Path("/dev/shm")
_SLACK = 64 << 20
_START_SECONDS = 10.0
_CLOSE_SECONDS = 6.0


def _sweep(parent: Path) -> None:
    """Remove run directories of our own user whose keeper is gone: its lock is free."""
    for folder in parent.glob(f"{_PREFIX}*"):
        lock = folder / "lock"
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, just gone, or not ours


def make_run_folder(ram_bytes: int) -> Path:
    """Make a run directory: in shared memory if the RAM fits there, else in the temp folder."""
    parent = Path(tempfile.gettempdir())
    try:
        if shutil.disk_usage(_SHARED_MEMORY).free >= ram_bytes + _SLACK and os.access(
            _SHARED_MEMORY, os.W_OK
        ):
            parent = _SHARED_MEMORY
    except OSError:
        pass  # no /dev/shm here
    _sweep(parent)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


class Process:
    """QEMU under its keeper."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        """Start QEMU; raises LabError if that fails."""
        self._folder = folder
        self._status: str | None = None
        self._buffer = b""
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), str(folder), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            first = self._line(_START_SECONDS)
        except BaseException:
            self.close()
            raise
        if first is None or not first.startswith("pid "):
            self.close()
            raise LabError(f"QEMU cannot be started: {first or 'no answer from its keeper'}")
        self.pid = int(first[4:])

    def _line(self, seconds: float) -> str | None:
        """Return the keeper's next line, or None if there is none within `seconds`."""
        assert self._keeper.stdout is not None
        limit = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = max(0.0, limit - time.monotonic())
            if not select.select([self._keeper.stdout], [], [], left)[0]:
                return None
            new = os.read(self._keeper.stdout.fileno(), 4096)
            if not new:
                return None
            self._buffer += new
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def ended(self) -> str | None:
        """Return how QEMU ended ("status 1", "signal 9"), or None while it runs."""
        if self._status is None:
            line = self._line(0)
            if line is not None and line.startswith("exit "):
                code = int(line[5:])
                self._status = f"signal {-code}" if code < 0 else f"status {code}"
            elif line is None and self._keeper.poll() is not None:
                self._status = "its keeper was killed"
        return self._status

    def log_tail(self) -> str:
        """Return the last line that QEMU itself printed."""
        try:
            lines = (self._folder / "qemu.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End QEMU and remove the run directory; bounded, and may be called twice."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # and QEMU with it, by its parent death signal
            self._keeper.wait()
        self._keeper.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)
