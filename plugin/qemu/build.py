"""Build something with a compiler, once: run the tool, keep what it made in the cache."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from nestscope.plugin.qemu.errors import LabError

_SECONDS = 120


def digest(*parts: bytes) -> str:
    """Return a short digest of `parts`, for the name of what is made of them."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()[:20]


def keep(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, atomically: a half-written file never has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def run_tool(command: list[str], advice: str) -> str:
    """Run a tool and return what it printed.

    Raises:
        LabError: with `advice` ("install ...") if it fails or does not end.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as problem:
        raise LabError(f"{command[0]} did not end within {_SECONDS} s: try again") from problem
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise LabError(f"{command[0]} failed ({last}): {advice}")
    return done.stdout
