"""A SOURCE of the command line, opened: memory, kernel, State."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestscope.decoders.kernel.kernel import Kernel, open_kernel
from nestscope.decoders.kernel.profile import Profile
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
def open_target(
    name: str,
    vmlinux: Path | None = None,
    modules: Path | None = None,
    profile: Path | None = None,
    debug: Path | None = None,
) -> Iterator[Target]:
    """Open a dump, `ram:FILE` or `gdb:HOST:PORT`; close it at the end.

    What the memory tells of its kernel needs no file (see `open_kernel`).
    A live target is stopped while it is open, and runs on afterwards.

    Raises:
        NestscopeError: if it cannot be opened or runs another kernel.
    """
    known = Profile.open(profile) if profile is not None else None

    def examine(memory: Memory) -> Kernel:
        return open_kernel(memory, vmlinux, modules, debug_dir=debug, profile=known)

    if name.startswith(GDB_PREFIX):
        endpoint = name.removeprefix(GDB_PREFIX)
        endian = known.byteorder if known is not None and vmlinux is None else None
        with GdbSession.connect(endpoint, vmlinux, endian=endian) as session, session.stopped():
            gdb_memory = GdbMemory(session)
            yield Target(gdb_memory, examine(gdb_memory), Source("gdb", endpoint))
        return
    memory, source = open_source(name)
    with memory:
        yield Target(memory, examine(memory), source)
