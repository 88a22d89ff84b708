"""The whole State for commands that need all of it, with progress while it is read."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.read_state import StateReader
from nestscope.decoders.sources.protocol import Memory, Rows, read_many
from nestscope.decoders.state import State
from nestscope.plugin.gdb.worker.answer import Request

TELL_SECONDS = 0.5


class ToldMemory:
    """Another memory; tells now and then how much was read. Satisfies `BulkMemory`."""

    def __init__(self, memory: Memory, tell: Callable[[str], None]) -> None:
        self._memory = memory
        self._tell = tell
        self._bytes = 0
        self._next = time.monotonic() + TELL_SECONDS

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at `address`.

        Raises:
            UnreadableMemoryError: if they cannot be read.
        """
        self._count(length)
        return self._memory.read(address, length)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        self._count(length * len(addresses))
        return read_many(self._memory, addresses, length)

    def _count(self, length: int) -> None:
        self._bytes += length
        if time.monotonic() >= self._next:
            self._tell(f"{self._bytes >> 10} KiB read")
            self._next = time.monotonic() + TELL_SECONDS


def whole_state(request: Request) -> State:
    """Read the State of the target.

    Raises:
        LookupFailedError: if kvm is not loaded.
    """
    opened = request.opened
    opened.view.addresses()  # says in one sentence that kvm is not loaded
    tell = request.session.gdb.progress
    tell("reading every VM")
    memory = ToldMemory(opened.memory, tell)
    return StateReader(opened.kernel, opened.source, memory).read()
