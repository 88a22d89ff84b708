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

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.build import digest, keep, run_tool
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.other_qemu import program_of

HOST_COMPILER = "gcc"
_SOURCE = Path(__file__).parent / "tcg" / "counter.c"
_FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden")
_INSTALL = "install gcc"
_WORD = 4
# Names of the interface, as the program's table of dynamic symbols has them.
_COUNT_INLINE = b"\0qemu_plugin_register_vcpu_insn_exec_inline\0"
_COUNT_BY_CALL = b"\0qemu_plugin_register_vcpu_insn_exec_cb\0"
_COUNTER = np.dtype("<u8").newbyteorder("=")


def plugin_interface(qemu: Path) -> int:
    """Return which version of the plugin interface is to be used with a QEMU program: 1 or 2.

    Version 2 has no counting that is compiled into the code and may use any memory
    (QEMU 0bcebaba45b1 "plugins: remove non per_vcpu inline operation from API").

    Raises:
        LabError: if this QEMU has no plugins.
    """
    program = program_of(qemu).read_bytes()
    if _COUNT_INLINE in program:
        return 1
    if _COUNT_BY_CALL in program:
        return 2
    if program.startswith(b"#!"):
        raise LabError(f"{qemu} is a script: give the program that it runs with --qemu")
    raise LabError(f"{qemu} was built without TCG plugins: give another with --qemu")


def build_counter_plugin(interface: int, compiler: str = HOST_COMPILER) -> Path:
    """Return the plugin's shared object, built now if the cache has none of this source.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    if shutil.which(compiler) is None:
        raise LabError(f"there is no {compiler} to build QEMU's coverage plugin: {_INSTALL}")
    version = run_tool([compiler, "--version"], _INSTALL).encode()
    key = digest(version, _SOURCE.read_bytes(), bytes([interface]))
    path = cache_root() / "tcg" / f"counter-{key}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="nestscope-build-") as folder:
        made = Path(folder) / "counter.so"
        flags = [*_FLAGS, f"-DINTERFACE={interface}"]
        run_tool([compiler, *flags, "-o", str(made), str(_SOURCE)], _INSTALL)
        return keep(path, made.read_bytes())


def counting(qemu: Path, counters: Path, ram: Path, ram_bytes: int) -> list[str]:
    """Return the arguments that make QEMU count; the file of the counters is made, all 0.

    Raises:
        LabError: if the plugin cannot be built or the file not be made.
    """
    plugin = build_counter_plugin(plugin_interface(qemu))
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
