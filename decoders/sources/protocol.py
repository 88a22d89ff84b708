"""The protocol that every source of memory satisfies."""

from typing import Protocol, runtime_checkable


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
