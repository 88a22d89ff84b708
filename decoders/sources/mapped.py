"""A file of physical memory: some byte ranges of the file are physical ranges."""

import mmap
import stat
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.sources.protocol import Rows
from nestscope.decoders.sources.source_memory import SourceMemory, merged

ADDRESS_END = 1 << 64
_FEW = 16
_SHORT = 4096
"""So few rows of at most so many bytes are quicker read one after the other."""


class SourceFileError(NestscopeError):
    """A file given as a source of memory cannot be used; the text says why."""


class Segment(NamedTuple):
    """`size` bytes at physical address `start` are in the file at `offset`."""

    start: int
    offset: int
    size: int


class MappedFile:
    """A file, mapped read-only; or bytes in memory that stand for one (`holding`).

    The file must not shrink while it is mapped: the processor then has no
    page to read and the system ends the program (SIGBUS).
    """

    def __init__(self, path: Path) -> None:
        """Map `path`.

        Raises:
            SourceFileError: if it is absent, unreadable, empty or not a regular file.
        """
        self.path = path
        self.data: mmap.mmap | bytes
        try:
            # Opening a FIFO would wait for a writer, so look first.
            if not stat.S_ISREG(path.stat().st_mode):
                raise SourceFileError(f"{path} is not a regular file; give a file of memory")
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            why = error.strerror or str(error)
            raise SourceFileError(f"{path} cannot be opened: {why}") from error
        except ValueError as error:
            raise SourceFileError(f"{path} is empty; give a file of memory") from error
        self.size = len(self.data)

    @classmethod
    def holding(cls, path: Path, data: "mmap.mmap | bytes") -> Self:
        """Return a file with the contents `data` that is called `path` in messages."""
        file = cls.__new__(cls)
        file.path, file.data, file.size = path, data, len(data)
        return file

    def close(self) -> None:
        """Unmap the file. Closing twice is harmless."""
        if isinstance(self.data, mmap.mmap):
            self.data.close()


class FileMemory(SourceMemory):
    """Physical memory held by ranges of a file. Satisfies `Memory`.

    Where segments overlap, the one that starts later holds. A segment that
    reaches over the end of the file is cut there: what is in the file can be read.
    """

    kind = "file"

    def __init__(self, file: MappedFile, segments: Iterable[Segment]) -> None:
        """Take over `file`: `close` closes it."""
        self._file = file
        self._data = file.data
        self.name = file.path.name
        self.segments = _without_overlaps(segments, file.size)
        self._starts = [segment.start for segment in self.segments]
        self._table = np.array(self.segments, np.uint64).reshape(-1, 3)
        self._bytes: NDArray[np.uint8] = np.frombuffer(file.data, np.uint8)

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if any byte is in no segment.
        """
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and length >= 0:
            start, offset, size = self.segments[at]
            into = address - start
            if into + length <= size:
                return self._data[offset + into : offset + into + length]
        return self._read_across(address, length)

    def _read_across(self, address: int, length: int) -> bytes:
        """Read from several segments, or say which byte is in none."""
        if length < 0 or address < 0 or address + length > ADDRESS_END:
            raise UnreadableMemoryError(address, length, "no such physical address")
        parts: list[bytes] = []
        done = 0
        while done < length:
            here = address + done
            at = bisect_right(self._starts, here) - 1
            into = here - self._starts[at] if at >= 0 else 0
            if at < 0 or into >= self.segments[at].size:
                why = f"{self.name} holds nothing at physical address {here:#x}"
                raise UnreadableMemoryError(address, length, why)
            _, offset, size = self.segments[at]
            take = min(length - done, size - into)
            parts.append(self._data[offset + into : offset + into + take])
            done += take
        return b"".join(parts)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        few = len(addresses) <= _FEW and length <= _SHORT
        if few or not self.segments or not length or not len(addresses):
            return self._read_few(addresses.tolist(), length)
        good, places = self._places(addresses, length)
        if good.all():
            return self._rows(places, length), good
        rows = np.zeros((len(addresses), length), np.uint8)
        if good.any():
            rows[good] = self._rows(places[good], length)
        # What is left may still lie across segments that touch.
        left = np.flatnonzero(~good)
        rows[left], good[left] = self._read_few(addresses[left].tolist(), length)
        return rows, good

    def _places(
        self, addresses: NDArray[np.uint64], length: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Say which rows lie in one segment, and at which offset of the file."""
        if len(self.segments) == 1:
            start, offset, size = self.segments[0]
            # Below the segment the difference wraps around and is larger than any size.
            into = addresses - np.uint64(start)
            good = into <= np.uint64(max(size - length, 0))
            return good & (size >= length), (into + np.uint64(offset)).astype(np.intp)
        starts, offsets, sizes = self._table.T
        at = np.searchsorted(starts, addresses, side="right") - 1
        into = addresses - starts[at]
        # Below the first segment `at` is -1 and the difference is of no use.
        good = (at >= 0) & (into < sizes[at]) & (sizes[at] - into >= np.uint64(length))
        return good, (offsets[at] + into).astype(np.intp)

    def _rows(self, places: NDArray[np.intp], length: int) -> NDArray[np.uint8]:
        """Return the `length` bytes of the file from each offset; all are inside."""
        number, first = np.divmod(places, length)
        if (first == first[0]).all():
            # Like tables and pages: the file is one table of rows, and take() copies whole rows.
            start = int(first[0])
            count = (len(self._bytes) - start) // length
            return (
                self._bytes[start : start + count * length].reshape(count, length).take(number, 0)
            )
        return np.lib.stride_tricks.sliding_window_view(self._bytes, length)[places]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the physical ranges that the file holds (see `SourceMemory`)."""
        return merged((start, start + size) for start, _, size in self.segments)

    def close(self) -> None:
        """Unmap the file; reading is an error afterwards. Closing twice is harmless."""
        # The mapping cannot be closed while an array looks into it.
        self._bytes = np.empty(0, np.uint8)
        self.segments = []
        self._starts = []
        self._file.close()


def _without_overlaps(segments: Iterable[Segment], file_size: int) -> list[Segment]:
    """Return the segments in ascending order, cut at the file's end and at each other."""
    inside = sorted(
        Segment(start, offset, min(size, file_size - offset, ADDRESS_END - start))
        for start, offset, size in segments
        if size > 0 and 0 <= offset < file_size and 0 <= start < ADDRESS_END
    )
    cut: list[Segment] = []
    for number, (start, offset, size) in enumerate(inside):
        following = inside[number + 1].start if number + 1 < len(inside) else ADDRESS_END
        if following > start:
            cut.append(Segment(start, offset, min(size, following - start)))
    return cut
