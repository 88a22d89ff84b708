"""A SOURCE of the command line, opened: memory, kernel, State."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel, open_kernel
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Source, State
from nestscope.plugin.mi.memory import GdbMemory
from nestscope.plugin.mi.session import GdbSession

GDB_PREFIX = "gdb:"


@dataclass(frozen=True)
class Target:
    """Physical memory and the kernel that runs in it."""

    memory: Memory
    kernel: Kernel
    source: Source

    def state(self) -> State:
        """Read the State."""
        return read_state(self.memory, self.kernel, self.source)


@contextmanager
def open_target(name: str, vmlinux: Path | None, modules: Path | None) -> Iterator[Target]:
    """Open a dump, `ram:FILE` or `gdb:HOST:PORT`; close it at the end.

    A live target is stopped while it is open, and runs on afterwards.

    Raises:
        NestscopeError: if it cannot be opened or runs another kernel.
    """
    if vmlinux is None:
        raise NestscopeError(f"which kernel runs in {name}? Give its image with --vmlinux FILE")
    if name.startswith(GDB_PREFIX):
        endpoint = name.removeprefix(GDB_PREFIX)
        with GdbSession.connect(endpoint, vmlinux) as session, session.stopped():
            gdb_memory = GdbMemory(session)
            kernel = open_kernel(gdb_memory, vmlinux, modules)
            yield Target(gdb_memory, kernel, Source("gdb", endpoint))
        return
    memory, source = open_source(name)
    with memory:
        yield Target(memory, open_kernel(memory, vmlinux, modules), source)
