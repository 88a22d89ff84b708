"""The protocol that every source of memory satisfies."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError

Rows = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Bytes read in bulk, shape (n, length), and which of the n rows could be read."""


@runtime_checkable
class Memory(Protocol):
    """Bytes at addresses.

    A *physical* memory (a dump, QEMU's RAM file, a gdbstub) takes physical
    addresses; `decoders.kernel.memory.KernelMemory` offers the same protocol
    for kernel virtual addresses on top of one.
    """

    def read(self, address: int, length: int) -> bytes:
        """Return exactly `length` bytes at `address`.

        Raises:
            UnreadableMemoryError: if any of the bytes cannot be read.
        """
        ...


@runtime_checkable
class BulkMemory(Memory, Protocol):
    """A memory that reads many places in one call, for whole trees and long lists."""

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each of `addresses`, and which rows are good.

        Rows are C-contiguous, shape (n, length). A row that cannot be read in
        full is all zero and its flag is False; nothing is raised for it.
        """
        ...


def read_many(memory: Memory, addresses: NDArray[np.uint64], length: int) -> Rows:
    """Return `length` bytes at each of `addresses`, and which rows are good.

    Uses the memory's own `read_many` if it has one, otherwise one `read` for
    each address. The answer is that of `BulkMemory.read_many`.
    """
    # Not isinstance(): that walks the whole protocol, and this runs for every table.
    bulk: Callable[[NDArray[np.uint64], int], Rows] | None = getattr(memory, "read_many", None)
    if bulk is not None:
        return bulk(addresses, length)
    rows: list[bytes] = []
    good: list[bool] = []
    missing = bytes(length)
    for address in addresses.tolist():
        data = _read_or_none(memory, address, length)
        rows.append(missing if data is None else data)
        good.append(data is not None)
    joined = np.frombuffer(b"".join(rows), np.uint8)
    return joined.reshape(len(rows), length), np.array(good, np.bool_)


def _read_or_none(memory: Memory, address: int, length: int) -> bytes | None:
    try:
        return memory.read(address, length)
    except UnreadableMemoryError:
        return None
