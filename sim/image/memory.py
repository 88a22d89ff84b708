"""Sparse physical memory in NumPy arrays, and files of it."""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.sources.protocol import Rows

Bytes = NDArray[np.uint8]

_BLOCK = 1 << 16
"""Zeros of a file are left out by this many bytes."""

_ELF_HEADER = "16sHHIQQQIHHHHHH"
_PROGRAM_HEADER = "IIQQQQQQ"
_ET_CORE, _EM_PPC64, _PT_LOAD = 4, 21, 1


class Region(NamedTuple):
    """Bytes from physical address `start` on."""

    start: int
    data: Bytes

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.start + len(self.data)


class SparseMemory:
    """Physical memory that consists of regions. Satisfies `BulkMemory`."""

    def __init__(self, regions: Sequence[Region]) -> None:
        """Take regions that do not overlap, in any order. Their bytes are not copied."""
        self.regions = sorted(regions, key=lambda region: region.start)
        self._starts = [region.start for region in self.regions]
        self._start_column = np.array(self._starts, np.uint64)
        self._end_column = np.array([region.end for region in self.regions], np.uint64)

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if any byte is in no region.
        """
        parts: list[bytes] = []
        done = 0
        while done < length:
            here = address + done
            at = bisect_right(self._starts, here) - 1
            if at < 0 or here >= self.regions[at].end:
                why = f"the image holds nothing at physical address {here:#x}"
                raise UnreadableMemoryError(address, length, why)
            start, data = self.regions[at]
            part = data[here - start : here - start + length - done]
            parts.append(part.tobytes())
            done += len(part)
        if length < 0:
            raise UnreadableMemoryError(address, length, "no such physical address")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        if not self.regions or not length:
            good[:] = length == 0
            return rows, good
        owner = np.searchsorted(self._start_column, addresses, side="right") - 1
        below = addresses < self._start_column[0]
        left = self._end_column[owner] - addresses  # of no use where `below`
        inside = ~below & (addresses < self._end_column[owner]) & (left >= np.uint64(length))
        for number in np.unique(owner[inside]).tolist():
            start, data = self.regions[number]
            those = inside & (owner == number)
            offsets = (addresses[those] - np.uint64(start)).astype(np.intp)
            windows = np.lib.stride_tricks.sliding_window_view(data, length)
            rows[those] = windows[offsets]
        good |= inside
        # What is left may still lie across regions that touch.
        for row in np.flatnonzero(~inside).tolist():
            try:
                data = np.frombuffer(self.read(int(addresses[row]), length), np.uint8)
            except UnreadableMemoryError:
                continue
            rows[row], good[row] = data, True
        return rows, good

    def write_raw(self, path: Path) -> None:
        """Write a raw image of RAM, physical address 0 first. Zeros become holes."""
        with path.open("wb") as file:
            _write_regions(file, self.regions, 0)
            file.truncate(max((region.end for region in self.regions), default=0))

    def write_elf_core(self, path: Path, byteorder: ByteOrder) -> None:
        """Write an ELF64 core of a ppc64 machine, one PT_LOAD a run of regions.

        `byteorder` is that of the file's headers; memory is never swapped.
        Zeros become holes.
        """
        runs = list(_runs(self.regions))
        order = prefix(byteorder)
        ident = b"\x7fELF" + bytes([2, 1 if byteorder == "little" else 2, 1])
        counts = (64, 56, len(runs), 64, 0, 0)
        header = struct.pack(
            order + _ELF_HEADER, ident, _ET_CORE, _EM_PPC64, 1, 0, 64, 0, 0, *counts
        )
        offset = -(-(64 + 56 * len(runs)) // _BLOCK) * _BLOCK
        with path.open("wb") as file:
            for run in runs:
                start, size = run[0].start, run[-1].end - run[0].start
                header += struct.pack(
                    order + _PROGRAM_HEADER, _PT_LOAD, 7, offset, start, start, size, size, 0
                )
                _write_regions(file, run, offset - start)
                offset += -(-size // _BLOCK) * _BLOCK
            file.truncate(offset)
            file.seek(0)
            file.write(header)


def _runs(regions: Sequence[Region]) -> Iterator[list[Region]]:
    """Group regions that follow each other without a gap."""
    run: list[Region] = []
    for region in regions:
        if run and run[-1].end != region.start:
            yield run
            run = []
        run.append(region)
    if run:
        yield run


def _write_regions(file: BinaryIO, regions: Sequence[Region], shift: int) -> None:
    """Write each region at its address plus `shift`, but not its blocks of zeros."""
    for region in regions:
        for into in range(0, len(region.data), _BLOCK):
            block = region.data[into : into + _BLOCK]
            if block.any():
                file.seek(region.start + shift + into)
                file.write(block.tobytes())
