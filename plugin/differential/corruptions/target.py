"""Where a corruption is written: an image of the model, a capture's file, a lab's RAM."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.protocol import Memory, Rows, read_many
from nestscope.decoders.state import Source
from nestscope.sim.image.memory import SparseMemory

Patches = dict[int, bytes]
"""Bytes by physical address."""


class Target(Protocol):
    """A kernel in memory that can be written. Addresses are physical."""

    @property
    def memory(self) -> Memory:
        """The memory as it is now."""
        ...

    @property
    def kernel(self) -> Kernel:
        """The kernel in it."""
        ...

    @property
    def source(self) -> Source:
        """What it is, for the State."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write bytes.

        Raises:
            NestscopeError: if the target does not hold the address.
        """
        ...


class ImageTarget:
    """An image of the model (`sim.image`), changed in place."""

    def __init__(self, memory: SparseMemory, kernel: Kernel) -> None:
        self.memory = memory
        self.kernel = kernel
        self.source = Source("model", "image")

    def write(self, address: int, data: bytes) -> None:
        """Write bytes into the region that holds them."""
        for start, end_data in self.memory.regions:
            at = address - start
            if 0 <= at <= len(end_data) - len(data):
                end_data[at : at + len(data)] = np.frombuffer(data, np.uint8)
                return
        raise NestscopeError(f"the image holds nothing at physical address {address:#x}")


class FileTarget:
    """The file of a capture (an unpacked ELF core): its bytes are rewritten.

    `memory` and `kernel` are those of the opened capture; the file must be mapped shared,
    or be opened again, for what is written to be seen.
    """

    def __init__(self, path: Path, memory: Memory, kernel: Kernel, source: Source) -> None:
        self.path = path
        self.memory = memory
        self.kernel = kernel
        self.source = source
        with ElfCore(path) as core:
            self._segments = list(core.segments)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes where the file has them."""
        for start, offset, size in self._segments:
            if start <= address and address + len(data) <= start + size:
                _write_file(self.path, offset + address - start, data)
                return
        raise NestscopeError(f"{self.path} holds nothing at physical address {address:#x}")


class RamTarget:
    """The shared RAM file of a lab machine that runs: this changes a live kernel."""

    def __init__(self, path: Path, memory: Memory, kernel: Kernel) -> None:
        self.path = path
        self.memory = memory
        self.kernel = kernel
        self.source = Source("ram", str(path))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes: the file begins with physical address 0."""
        _write_file(self.path, address, data)


def _write_file(path: Path, offset: int, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(file, data, offset)
    finally:
        os.close(file)


class PatchedMemory:
    """Another memory with some bytes replaced. Satisfies `BulkMemory`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.patches: Patches = {}

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at `address`, patched.

        Raises:
            UnreadableMemoryError: if the memory below cannot be read there.
        """
        data = bytearray(self._memory.read(address, length))
        for place, patch in self.patches.items():
            _overlay(data, address, place, patch)
        return bytes(data)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, patched, and which rows are good."""
        rows, good = read_many(self._memory, addresses, length)
        rows = rows.copy()
        for place, patch in self.patches.items():
            touched = (addresses < place + len(patch)) & (addresses + np.uint64(length) > place)
            for at in np.flatnonzero(touched & good).tolist():
                data = bytearray(rows[at].tobytes())
                _overlay(data, int(addresses[at]), place, patch)
                rows[at] = np.frombuffer(bytes(data), np.uint8)
        return rows, good


def _overlay(data: bytearray, address: int, place: int, patch: bytes) -> None:
    first = max(address, place)
    last = min(address + len(data), place + len(patch))
    if first < last:
        data[first - address : last - address] = patch[first - place : last - place]
