"""What every opened source of memory is: readable, in bulk too, named, closable."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Rows


class SourceMemory(ABC):
    """Physical memory from outside, open until `close`. Satisfies `BulkMemory`.

    `kind` is what the State calls this sort of source, `name` the file's name.
    """

    kind: str
    name: str

    @abstractmethod
    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if the source does not hold all of them.
        """

    @abstractmethod
    def ranges(self) -> list[tuple[int, int]]:
        """Return what it holds: ascending, disjoint ranges `(start, end)`, end not included."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; reading is an error afterwards. Closing twice is harmless."""

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        return self._read_few(addresses.tolist(), length)

    def _read_few(self, addresses: list[int], length: int) -> Rows:
        """Read one address after the other: for few of them that is quicker."""
        rows: list[bytes] = []
        good = np.ones(len(addresses), np.bool_)
        for row, address in enumerate(addresses):
            try:
                rows.append(self.read(address, length))
            except UnreadableMemoryError:
                rows.append(bytes(length))
                good[row] = False
        joined = np.frombuffer(b"".join(rows), np.uint8)
        return joined.reshape(len(rows), length), good

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges `(start, end)` in ascending order, those that touch or overlap made one."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif end > start:
            result.append((start, end))
    return result
