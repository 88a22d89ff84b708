"""Counts of the instructions that ran in the kernel's modules: a TCG plugin of our own in QEMU.

The plugin (`tcg/counter.c`) adds one to a counter in a shared file whenever an
instruction in the kernel's vmalloc space runs. The index is the instruction's
physical address, so that a guest's kernel is not mistaken for the host's.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nestscope.plugin.qemu.build import digest, keep, run_tool
from nestscope.plugin.qemu.cache import cache_root
from nestscope.plugin.qemu.errors import LabError

HOST_COMPILER = "gcc"
_SOURCE = Path(__file__).parent / "tcg" / "counter.c"
_FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden")
_INSTALL = "install gcc"
_WORD = 4
_COUNTER = np.dtype("<u8").newbyteorder("=")


def build_counter_plugin(compiler: str = HOST_COMPILER) -> Path:
    """Return the plugin's shared object, built now if the cache has none of this source.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    if shutil.which(compiler) is None:
        raise LabError(f"there is no {compiler} to build QEMU's coverage plugin: {_INSTALL}")
    version = run_tool([compiler, "--version"], _INSTALL).encode()
    path = cache_root() / "tcg" / f"counter-{digest(version, _SOURCE.read_bytes())}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="nestscope-build-") as folder:
        made = Path(folder) / "counter.so"
        run_tool([compiler, *_FLAGS, "-o", str(made), str(_SOURCE)], _INSTALL)
        return keep(path, made.read_bytes())


def counting(counters: Path, ram: Path, ram_bytes: int) -> list[str]:
    """Return the arguments that make QEMU count; the file of the counters is made, all 0.

    Raises:
        LabError: if the plugin cannot be built or the file not be made.
    """
    plugin = build_counter_plugin()
    try:
        # Sparse: only where modules' text lies will anything be written.
        with counters.open("xb") as file:
            file.truncate(ram_bytes // _WORD * _COUNTER.itemsize)
    except OSError as problem:
        raise LabError(f"{counters} cannot be made ({problem.strerror}): set TMPDIR") from problem
    # QEMU's own quoting of commas.
    quoted = [str(path).replace(",", ",,") for path in (plugin, counters, ram)]
    return ["-plugin", "{},counters={},ram={}".format(*quoted)]


class Counters:
    """The counters of a running machine, mapped read-only; a context manager."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            LabError: if it is not there: the machine was booted without it.
        """
        try:
            self._counts: NDArray[np.uint64] | None = np.memmap(path, _COUNTER, "r")
        except (OSError, ValueError) as problem:
            raise LabError(
                f"the machine counts nothing ({problem}): boot it with coverage"
            ) from problem

    def read(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return how often the instruction at each physical address ran since boot.

        Raises:
            LabError: for an address outside RAM, or after `close`.
        """
        if self._counts is None:
            raise LabError("the counters are closed: open them again")
        index = addresses // np.uint64(_WORD)
        if len(index) and int(index.max()) >= len(self._counts):
            raise LabError(f"{int(addresses.max()):#x} is not in the machine's RAM")
        return np.asarray(self._counts[index])

    def close(self) -> None:
        """Unmap the file; may be called twice."""
        self._counts = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
