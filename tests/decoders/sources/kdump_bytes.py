"""Hand-made kdump-compressed dumps, in either byte order, packed in any way, split, flattened."""

import struct
import zlib
from collections.abc import Callable, Mapping

import cramjam
import lzallright
import zstandard

BLOCK = 4096
RAW, ZLIB, LZO, SNAPPY, ZSTD = 0, 1, 2, 4, 0x20

PACKERS: dict[int, Callable[[bytes], bytes]] = {
    RAW: bytes,
    ZLIB: zlib.compress,
    LZO: lambda page: bytes(lzallright.LZOCompressor().compress(page)),
    SNAPPY: lambda page: bytes(cramjam.snappy.compress_raw(page)),
    ZSTD: lambda page: zstandard.ZstdCompressor().compress(page),
}


def kdump(
    pages: Mapping[int, bytes],
    *,
    order: str = "<",
    flags: int = ZLIB,
    max_mapnr: int | None = None,
    part: tuple[int, int] | None = None,
    version: int = 6,
    vmcoreinfo: bytes = b"",
) -> bytes:
    """Return a dump of `pages` (page number to its bytes); `part` makes it one of a split dump."""
    top = max_mapnr or max(pages) + 1
    bitmap_bytes = (top + 8 * BLOCK - 1) // (8 * BLOCK) * BLOCK
    header = struct.pack(
        order + "8sI390s6x16s10I",
        b"KDUMP   ",
        version,
        b"Linux",
        b"",
        0,
        BLOCK,
        1,
        2 * bitmap_bytes // BLOCK,
        min(top, 0xFFFFFFFF),
        0,
        0,
        0,
        0,
        1,
    )
    start, end = part or (0, 0)
    data_at = 2 * BLOCK + 2 * bitmap_bytes
    sub_header = struct.pack(
        order + "QIIQQQQQQQQQQQ",
        0,
        0,
        int(part is not None),
        start,
        end,
        data_at if vmcoreinfo else 0,
        len(vmcoreinfo),
        0,
        0,
        0,
        0,
        start,
        end,
        top,
    )
    bitmap = bytearray(bitmap_bytes)
    for number in pages:
        bitmap[number // 8] |= 1 << number % 8
    here = {n: page for n, page in pages.items() if part is None or start <= n < end}
    descriptors_at = data_at
    place = descriptors_at + 24 * len(here) + len(vmcoreinfo)
    descriptors, packed_pages = b"", b""
    for number in sorted(here):
        packed = PACKERS[flags](here[number])
        descriptors += struct.pack(order + "QIIQ", place + len(packed_pages), len(packed), flags, 0)
        packed_pages += packed
    if vmcoreinfo:
        # After the descriptors, so that these stay where they must be.
        sub_header = (
            sub_header[:32]
            + struct.pack(order + "Q", descriptors_at + len(descriptors))
            + sub_header[40:]
        )
    blocks = header.ljust(BLOCK, b"\0") + sub_header.ljust(BLOCK, b"\0")
    # Bitmap 1, of valid pages, is not what counts.
    return blocks + bytes(bitmap_bytes) + bytes(bitmap) + descriptors + vmcoreinfo + packed_pages


def flattened(records: list[tuple[int, bytes]], *, end: bool = True) -> bytes:
    """Return a flattened file with one record for each `(offset, bytes)`."""
    made = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    for offset, data in records:
        made += struct.pack(">qq", offset, len(data)) + data
    return made + (struct.pack(">qq", -1, -1) if end else b"")
