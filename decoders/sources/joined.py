"""Several files that hold parts of one machine's memory, read as one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Rows
from nestscope.decoders.sources.source_memory import SourceMemory, merged

_PAGE = 4096
MAX_READ = 256 << 20


class JoinedMemory(SourceMemory):
    """Physical memory from parts; where several hold a byte, the first one is asked."""

    kind = "split"

    def __init__(self, parts: Sequence[SourceMemory], name: str) -> None:
        """Take over `parts`: `close` closes them."""
        self.parts = tuple(parts)
        self.name = name

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`, also across parts.

        Raises:
            UnreadableMemoryError: if no part holds them; with the last part's reason.
        """
        why = f"{self.name} has no parts"
        for part in self.parts:
            try:
                return part.read(address, length)
            except UnreadableMemoryError as error:
                why = error.why
        to_boundary = _PAGE - address % _PAGE
        if not 0 < to_boundary < length <= MAX_READ:
            raise UnreadableMemoryError(address, length, why)
        # No part holds all of it. Parts begin and end at pages.
        end = address + length
        rest = range(address + to_boundary, end, _PAGE)
        pieces = [self.read(here, min(_PAGE, end - here)) for here in rest]
        return self.read(address, to_boundary) + b"".join(pieces)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        for part in self.parts:
            left = np.flatnonzero(~good)
            if len(left):
                rows[left], good[left] = part.read_many(addresses[left], length)
        left = np.flatnonzero(~good)
        if len(left):
            rows[left], good[left] = self._read_few(addresses[left].tolist(), length)
        return rows, good

    def ranges(self) -> list[tuple[int, int]]:
        """Return the physical ranges that any part holds (see `SourceMemory`)."""
        return merged(one for part in self.parts for one in part.ranges())

    def close(self) -> None:
        """Close every part. Closing twice is harmless."""
        for part in self.parts:
            part.close()
