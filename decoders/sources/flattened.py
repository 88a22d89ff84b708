"""The flattened form of makedumpfile and of QEMU's kdump formats: pieces of a file.

QEMU cannot seek in what it writes, so its kdump dumps are a row of records
`(offset, size, bytes)`, all numbers big-endian, whatever the dump's byte order
(makedumpfile: makedump_data_header; `makedumpfile -R` undoes it).
"""

import struct

import numpy as np

from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment, SourceFileError

FLAT_MAGIC = b"makedumpfile"
HEADER_BYTES = 4096
MAX_RECORDS = 1 << 20
MAX_OFFSET = 1 << 60
_RECORD = struct.Struct(">qq")
_TYPE_AND_VERSION = struct.Struct(">16sqq")


def is_flattened(file: MappedFile) -> bool:
    """Say whether `file` starts like a flattened dump."""
    return file.data[: len(FLAT_MAGIC)] == FLAT_MAGIC


def file_order(file: MappedFile) -> FileMemory:
    """Return the bytes of the file that the records make up, by offset in that file.

    A file that is not flattened is its own contents. `file` is taken over. Of a
    truncated file the records that are there hold; where records overlap the
    later one holds, as if each had been written in turn.

    Raises:
        SourceFileError: if a record makes no sense.
    """
    if not is_flattened(file):
        return FileMemory(file, [Segment(0, 0, file.size)])
    try:
        return FileMemory(file, _uncovered(_records(file)))
    except SourceFileError:
        file.close()
        raise


def _records(file: MappedFile) -> list[Segment]:
    """Return the records: offset in the made-up file, offset in this file, size."""
    header = file.data[: _TYPE_AND_VERSION.size]
    if len(header) < _TYPE_AND_VERSION.size:
        raise SourceFileError(f"{file.path} is cut short in its header")
    _, kind, version = _TYPE_AND_VERSION.unpack(header)
    if (kind, version) != (1, 1):
        raise SourceFileError(
            f"{file.path} is a flattened dump of unknown type {kind}, version {version}"
        )
    records: list[Segment] = []
    at = HEADER_BYTES
    while at + _RECORD.size <= file.size:
        offset, size = _RECORD.unpack(file.data[at : at + _RECORD.size])
        if (offset, size) == (-1, -1):  # the end mark
            break
        at += _RECORD.size
        sane = 0 <= offset < MAX_OFFSET and 0 < size < MAX_OFFSET
        if not sane or len(records) >= MAX_RECORDS:
            raise SourceFileError(
                f"{file.path} is damaged at {at - _RECORD.size:#x}: a record of {size} bytes "
                f"for offset {offset:#x}"
            )
        records.append(Segment(offset, at, min(size, file.size - at)))
        at += size
    return [record for record in records if record.size > 0]


def _uncovered(records: list[Segment]) -> list[Segment]:
    """Cut the records so that none overlaps another; a later one covers an earlier one."""
    starts = np.array([record.start for record in records], np.int64)
    ends = starts + np.array([record.size for record in records], np.int64)
    bounds = np.unique(np.concatenate([starts, ends]))
    owner = np.full(len(bounds), -1, np.int64)
    firsts, lasts = np.searchsorted(bounds, starts), np.searchsorted(bounds, ends)
    # A record covers no more pieces than it has bytes, so this is linear in the file.
    for number, (first, last) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True)):
        owner[first:last] = number
    pieces: list[Segment] = []
    for start, end, number in zip(
        bounds[:-1].tolist(), bounds[1:].tolist(), owner.tolist(), strict=False
    ):
        if number >= 0:
            record = records[number]
            pieces.append(Segment(start, record.offset + start - record.start, end - start))
    return pieces
