"""Unpacking one page of a dump: zlib from the standard library, the others if installed.

The output is bounded by the page size whatever the input says.
"""

import importlib
import zlib
from types import ModuleType

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.sources.kdump_header import (
    COMPRESSED_LZO,
    COMPRESSED_SNAPPY,
    COMPRESSED_ZLIB,
    COMPRESSED_ZSTD,
)

_NEEDS = {"lzallright": "lzo", "cramjam": "snappy", "zstandard": "zstd"}


class CodecError(NestscopeError):
    """A packed page cannot be unpacked; the text says why, without the place."""


def unpack_page(data: bytes, flags: int, size: int) -> bytes:
    """Return the `size` bytes of a page that the descriptor's `flags` say how to unpack.

    Raises:
        CodecError: if it is damaged, has another size, or needs a package that
            is not installed.
    """
    method = flags & (COMPRESSED_ZLIB | COMPRESSED_LZO | COMPRESSED_SNAPPY | COMPRESSED_ZSTD)
    match method:
        case 0:
            page = data
        case 1:  # COMPRESSED_ZLIB
            page = _zlib(data, size)
        case 2:  # COMPRESSED_LZO
            page = _lzo(data, size)
        case 4:  # COMPRESSED_SNAPPY
            page = _snappy(data, size)
        case 0x20:  # COMPRESSED_ZSTD
            page = _zstd(data, size)
        case _:
            raise CodecError(f"its flags {flags:#x} name more than one way of packing")
    if len(page) != size:
        raise CodecError(f"it has {len(page)} bytes unpacked instead of {size}")
    return page


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CodecError(
            f"it is packed with {_NEEDS[name]}, which needs the Python package {name}: "
            "install nestscope[dumps]"
        ) from error


def _zlib(data: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        # One byte more than allowed tells an oversized page from a good one.
        return unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise CodecError(f"it is damaged ({error})") from error


def _lzo(data: bytes, size: int) -> bytes:
    lzallright = _package("lzallright")
    try:
        # A byte of LZO expands to at most 255, and the input is no longer than a page or two.
        return bytes(lzallright.LZOCompressor().decompress(data, output_size_hint=size))
    except (lzallright.LZOError, lzallright.InputNotConsumed) as error:
        raise CodecError("it is damaged (not LZO)") from error


def _snappy(data: bytes, size: int) -> bytes:
    cramjam = _package("cramjam")
    page = bytearray(size)
    try:
        written = int(cramjam.snappy.decompress_raw_into(data, page))
    except cramjam.DecompressionError as error:
        raise CodecError(f"it is damaged ({error})") from error
    return bytes(page[:written])


def _zstd(data: bytes, size: int) -> bytes:
    zstandard = _package("zstandard")
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as stream:
            return bytes(stream.read(size + 1))
    except zstandard.ZstdError as error:
        raise CodecError(f"it is damaged ({error})") from error
