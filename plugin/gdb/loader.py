"""The file that GDB sources: it names our interpreter and the folder of the inner layer."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.decoders.errors import NestscopeError

GDB = "gdb-multiarch"
_CHECK_SECONDS = 30.0

# Any Python must be able to read it, if only to say that it is too old.
_TEXT = '''\
"""Loads nestscope into GDB. Made by `nestscope gdb --print`; make it again after an update."""
import sys


def _load(python, folder):
    if sys.version_info < (3, 6):
        print("nestscope needs a GDB with Python 3.6 or later, this one has Python "
              + sys.version.split()[0])
        return
    import importlib.util
    import os
    if not os.path.isdir(folder):
        print("nestscope is not in " + folder + " any more: install it again and source the "
              "line that `nestscope gdb --print` gives")
        return
    if "nestscope_in_gdb" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "nestscope_in_gdb", os.path.join(folder, "__init__.py"),
        submodule_search_locations=[folder])
    package = importlib.util.module_from_spec(spec)
    sys.modules["nestscope_in_gdb"] = package
    spec.loader.exec_module(package)
    from nestscope_in_gdb.start import start
    start(python)


_load({python!r}, {folder!r})
'''


class GdbError(NestscopeError):
    """GDB cannot be used: one sentence says why, and what to install."""


def write_loader() -> Path:
    """Write the loader of this installation to the cache; return its path.

    Raises:
        GdbError: if it cannot be written.
    """
    folder = Path(__file__).resolve().parent / "inside"
    text = _TEXT.format(python=sys.executable, folder=str(folder))
    name = f"nestscope-{hashlib.sha256(text.encode()).hexdigest()[:12]}.py"
    path = cache_root() / "gdb" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            # Another process may source it at this moment.
            new = path.with_suffix(f".{os.getpid()}")
            new.write_text(text)
            new.replace(path)
    except OSError as error:
        raise GdbError(f"{path} cannot be written: {error.strerror}") from error
    return path


def check_gdb(program: str) -> None:
    """Make sure that `program` is a GDB with Python.

    Raises:
        GdbError: if it is not.
    """
    try:
        done = subprocess.run(
            [program, "-nx", "-batch", "-ex", "python print('nested: yes')"],
            capture_output=True,
            text=True,
            timeout=_CHECK_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise GdbError(
            f"there is no {program}: install gdb-multiarch (Debian: apt install gdb-multiarch), "
            "or name another GDB with --gdb"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GdbError(f"{program} does not run: {error}") from error
    if "nested: yes" not in done.stdout:
        raise GdbError(
            f"{program} was built without Python, which nestscope needs in it: install "
            "gdb-multiarch, or name another GDB with --gdb"
        )
