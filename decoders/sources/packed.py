"""Files packed with xz, gzip or zstd: unpacked into memory, or into a file without a name.

The unpacked bytes beyond `IN_MEMORY` go to an unlinked temporary file, in which
zeros take no room; the system removes it when it is closed, however we end.
"""

import importlib
import lzma
import mmap
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from nestscope.decoders.sources.mapped import MappedFile, SourceFileError

IN_MEMORY = 16 << 20
MIN_LIMIT = 256 << 20
MAX_RATIO = 512
"""A file may unpack to this many times its size, or to `MIN_LIMIT` bytes if that is more."""

_STEP = 1 << 20
_XZ_MEMORY = 256 << 20
_ZSTD_STEP = 1 << 10  # 4 bytes can stand for a block of 128 KiB, so this for 32 MiB
_MAGICS = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

Pieces = Iterator[bytes]


def packing(file: MappedFile) -> str | None:
    """Return what `file` is packed with ("xz", "gzip", "zstd"), or None."""
    start = file.data[:6]
    return next((name for magic, name in _MAGICS.items() if start.startswith(magic)), None)


def unpacked(file: MappedFile) -> MappedFile:
    """Return the contents of a packed file. `file` is closed.

    Raises:
        SourceFileError: if it is damaged or cut short, unpacks to suspiciously
            much, or needs a package that is not installed.
    """
    name = packing(file)
    assert name is not None
    limit = max(MIN_LIMIT, MAX_RATIO * file.size)
    try:
        return _collect(file, _PIECES[name](file), limit, name)
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise SourceFileError(f"{file.path} cannot be unpacked ({name}): {error}") from error
    except OSError as error:
        raise SourceFileError(
            f"{file.path} cannot be unpacked into a temporary file ({error.strerror}); "
            "unpack it where there is room"
        ) from error
    finally:
        file.close()


def _collect(file: MappedFile, pieces: Pieces, limit: int, name: str) -> MappedFile:
    """Gather the pieces in memory, or in a temporary file once they are many."""
    parts: list[bytes] = []
    size = 0
    spill: IO[bytes] | None = None
    try:
        for piece in pieces:
            size += len(piece)
            if size > limit:
                raise SourceFileError(
                    f"{file.path} unpacks to more than {limit >> 20} MiB from {file.size} bytes, "
                    f"which is more than is trusted; unpack it with {name} first"
                )
            parts.append(piece)
            if size > IN_MEMORY:
                spill = spill or tempfile.TemporaryFile()  # noqa: SIM115 - closed below
                _append(spill, parts)
                parts = []
        if spill is None:
            return MappedFile.holding(file.path, b"".join(parts))
        spill.truncate(size)
        spill.flush()
        data = mmap.mmap(spill.fileno(), 0, access=mmap.ACCESS_READ)
        return MappedFile.holding(file.path, data)
    finally:
        if spill is not None:
            spill.close()  # the mapping keeps the contents


def _append(spill: IO[bytes], parts: list[bytes]) -> None:
    for part in parts:
        if part.count(0) == len(part):
            spill.seek(len(part), 1)
        else:
            spill.write(part)


def _xz(file: MappedFile) -> Pieces:
    at = 0
    while not _only_zeros(file, at):
        unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        while not unpacker.eof:
            # It keeps what it was given until it needs more.
            data = file.data[at : at + _STEP] if unpacker.needs_input else b""
            if unpacker.needs_input and not data:
                raise EOFError("it is cut short")
            at += len(data)
            yield unpacker.decompress(data, _STEP)
        at -= len(unpacker.unused_data)


def _gzip(file: MappedFile) -> Pieces:
    at = 0
    while not _only_zeros(file, at):
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while not unpacker.eof:
            data = unpacker.unconsumed_tail
            if not data:
                data = file.data[at : at + _STEP]
                at += len(data)
            piece = unpacker.decompress(data, _STEP)
            if not data and not piece:
                raise EOFError("it is cut short")
            yield piece
        at -= len(unpacker.unused_data)


def _only_zeros(file: MappedFile, at: int) -> bool:
    """Say whether no other stream follows: both formats allow zeros at the end."""
    return not any(file.data[at : at + _STEP])


def _zstd(file: MappedFile) -> Pieces:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise SourceFileError(
            f"{file.path} is packed with zstd, which needs the Python package zstandard: "
            "install nestscope[dumps], or unpack the file with zstd -d"
        ) from error
    at = 0
    try:
        while not _only_zeros(file, at):
            unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
            while not unpacker.eof:
                data = file.data[at : at + _ZSTD_STEP]
                if not data:
                    raise EOFError("it is cut short")
                at += len(data)
                yield unpacker.decompress(data)
            at -= len(unpacker.unused_data)
    except zstandard.ZstdError as error:
        raise SourceFileError(f"{file.path} cannot be unpacked (zstd): {error}") from error


_PIECES: dict[str, Callable[[MappedFile], Pieces]] = {"xz": _xz, "gzip": _gzip, "zstd": _zstd}
