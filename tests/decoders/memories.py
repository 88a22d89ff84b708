"""Small memories for tests: sparse, with holes, with and without bulk reads."""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError

UNIT = 8


class SparseMemory:
    """Doublewords at addresses; what was never written cannot be read.

    `zero` lists (address, length) ranges that read as 0 where nothing was written.
    """

    def __init__(self) -> None:
        self.words: dict[int, bytes] = {}
        self.zero: list[tuple[int, int]] = []
        self.reads = 0

    def put(self, address: int, word: int, order: str = "big") -> None:
        self.words[address] = word.to_bytes(UNIT, "little" if order == "little" else "big")

    def table(self, address: int, length: int) -> None:
        self.zero.append((address, length))

    def read(self, address: int, length: int) -> bytes:
        self.reads += 1
        return b"".join(self._unit(place, length) for place in range(address, address + length, 8))

    def _unit(self, place: int, length: int) -> bytes:
        word = self.words.get(place)
        if word is not None:
            return word
        if any(start <= place < start + size for start, size in self.zero):
            return bytes(UNIT)
        raise UnreadableMemoryError(place, length, "nothing there")


class BulkSparseMemory(SparseMemory):
    """The same, with a bulk read of its own."""

    def read_many(
        self, addresses: NDArray[np.uint64], length: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.ones(len(addresses), np.bool_)
        for at, address in enumerate(addresses.tolist()):
            try:
                rows[at] = np.frombuffer(self.read(address, length), np.uint8)
            except UnreadableMemoryError:
                good[at] = False
        return rows, good
