"""A guest's own memory: guest real addresses through the host tree's leaves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory, Rows, read_many
from nestscope.decoders.state import Leaves
from nestscope.decoders.words.pte import PTE_RPN

MAX_READ = 256 << 20


class GuestMemory:
    """Bytes at guest real addresses. Satisfies `BulkMemory`.

    A guest page that the host has no leaf for cannot be read.
    """

    def __init__(self, physical: Memory, host_leaves: Leaves) -> None:
        """Translate with `host_leaves` (address = guest real address in bytes)."""
        self._physical = physical
        columns = host_leaves.columns
        self._starts = columns["address"].astype(np.uint64)
        self._masks = (np.uint64(1) << columns["shift"].astype(np.uint64)) - np.uint64(1)
        self._pages = columns["pte"] & np.uint64(PTE_RPN) & ~self._masks

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at guest real `address`, across leaves.

        Raises:
            UnreadableMemoryError: if the host maps no page there, or its memory
                cannot be read.
        """
        if length < 0 or length > MAX_READ or not 0 <= address <= (1 << 64) - max(length, 1):
            raise UnreadableMemoryError(address, length, "no such range of guest addresses")
        parts: list[bytes] = []
        done = 0
        while done < length:
            here = address + done
            at = int(np.searchsorted(self._starts, np.uint64(here), side="right")) - 1
            into = here - int(self._starts[at]) if at >= 0 else 0
            if at < 0 or into > int(self._masks[at]):
                why = f"the host maps no page at guest real address {here:#x}"
                raise UnreadableMemoryError(address, length, why)
            take = min(length - done, int(self._masks[at]) + 1 - into)
            parts.append(self._physical.read(int(self._pages[at]) + into, take))
            done += take
        return b"".join(parts)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        if not len(self._starts):
            return rows, good
        at = np.searchsorted(self._starts, addresses, side="right") - 1
        into = addresses - self._starts[at]
        inside = (at >= 0) & (into <= self._masks[at])
        inside &= self._masks[at] - np.where(inside, into, 0) >= np.uint64(max(length, 1) - 1)
        if inside.any():
            physical = self._pages[at[inside]] + into[inside]
            rows[inside], good[inside] = read_many(self._physical, physical, length)
        for row in np.flatnonzero(~inside).tolist():
            try:
                data = self.read(int(addresses[row]), length)
            except UnreadableMemoryError:
                continue
            rows[row] = np.frombuffer(data, np.uint8)
            good[row] = True
        return rows, good


class FirstReadable:
    """Several ways to the same bytes, tried in order. Satisfies `Memory`."""

    def __init__(self, ways: Sequence[Memory]) -> None:
        """Try `ways`, at least one, in this order."""
        self._ways = ways

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at `address` the first way that has them.

        Raises:
            UnreadableMemoryError: what the last way said, if none has them.
        """
        for way in self._ways[:-1]:
            try:
                return way.read(address, length)
            except UnreadableMemoryError:
                continue
        return self._ways[-1].read(address, length)
