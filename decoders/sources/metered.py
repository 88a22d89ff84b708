"""A memory that gives only so much: the bound on what one reading may cost.

Single structures have bounds of their own, but hostile ones multiply: a
thousand VMs may share one huge memslot. Every loop reads, so a bound on
reading bounds them all.
"""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory, Rows, read_many

READ_COST = 4096
"""What a call costs at least, in bytes: small reads cost time as well."""


class MeteredMemory:
    """Another memory, up to `limit` bytes. Satisfies `BulkMemory`.

    Once the limit is reached everything is unreadable, until `refill`.
    """

    def __init__(self, memory: Memory, limit: int) -> None:
        self._memory = memory
        self._limit = limit
        self._left = limit

    def refill(self) -> None:
        """Allow `limit` bytes again."""
        self._left = self._limit

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at `address`.

        Raises:
            UnreadableMemoryError: if they cannot be read, or the limit is reached.
        """
        self._left -= max(length, READ_COST)
        if self._left < 0:
            raise UnreadableMemoryError(address, length, self._why())
        return self._memory.read(address, length)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        self._left -= max(length * len(addresses), READ_COST)
        if self._left < 0:
            rows = np.zeros((len(addresses), length), np.uint8)
            return rows, np.zeros(len(addresses), np.bool_)
        return read_many(self._memory, addresses, length)

    def _why(self) -> str:
        return f"this reading has cost {self._limit >> 20} MiB already, which is its limit"
