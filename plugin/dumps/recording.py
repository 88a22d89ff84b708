"""Remember which memory was read."""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory, Rows, read_many
from nestscope.decoders.sources.source_memory import merged

MAX_FAILURES = 100_000

Range = tuple[int, int]
"""Start and end of a range of addresses, the end not included."""


class RecordingMemory:
    """Another memory that remembers what could be read of it. Satisfies `BulkMemory`.

    `failures` says why single reads failed, by address and length; no more than
    `MAX_FAILURES` of them.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._singles: list[Range] = []
        self._starts: list[NDArray[np.uint64]] = []
        self._lengths: list[int] = []
        self.failures: dict[tuple[int, int], str] = {}

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at `address`, and remember that.

        Raises:
            UnreadableMemoryError: if they cannot be read.
        """
        try:
            data = self._memory.read(address, length)
        except UnreadableMemoryError as error:
            if len(self.failures) < MAX_FAILURES:
                self.failures[(address, length)] = error.why
            raise
        self._singles.append((address, address + length))
        return data

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        rows, good = read_many(self._memory, addresses, length)
        self._starts.append(np.array(addresses[good], np.uint64))
        self._lengths.append(length)
        return rows, good

    def ranges(self, grain: int = 1) -> list[Range]:
        """Return what was read, rounded outward to multiples of `grain` bytes, ascending."""
        firsts = [np.array([start for start, _ in self._singles], np.uint64), *self._starts]
        lasts = [np.array([end for _, end in self._singles], np.uint64)]
        bulk = zip(self._starts, self._lengths, strict=True)
        lasts += [start + np.uint64(length) for start, length in bulk]
        size = np.uint64(grain)
        first = np.concatenate(firsts) // size * size
        last = (np.concatenate(lasts) + size - np.uint64(1)) // size * size
        pairs = np.unique(np.stack([first, last], axis=1), axis=0).tolist()
        return merged((start, end) for start, end in pairs)
