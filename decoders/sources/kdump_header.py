"""Headers of the kdump-compressed format, in either byte order.

makedumpfile writes them in its machine's byte order, QEMU in the vCPU's
(include/sysemu/dump.h: DiskDumpHeader64, KdumpSubHeader64, PageDescriptor;
makedumpfile: diskdump_mod.h). A file is

    header | sub header | bitmap of valid pages | bitmap of dumped pages
    | a descriptor for each dumped page | the pages

where each part but the descriptors and pages fills whole blocks.
"""

from typing import Literal, NamedTuple

import numpy as np
from construct import Bytes, Const, Int32ub, Int32ul, Int64ub, Int64ul, Padding, Struct

SIGNATURE = b"KDUMP   "
HEADER_BYTES = 464
SUB_HEADER_BYTES = 104
MIN_BLOCK = 1 << 12
MAX_BLOCK = 1 << 18
MAX_VERSION = 6
COMPRESSED_ZLIB = 0x01
COMPRESSED_LZO = 0x02
COMPRESSED_SNAPPY = 0x04
COMPRESSED_ZSTD = 0x20

Order = Literal["<", ">"]


def _structs(order: Order) -> tuple[Struct, Struct]:
    u32, u64 = (Int32ul, Int64ul) if order == "<" else (Int32ub, Int64ub)
    header = Struct(
        "signature" / Const(SIGNATURE),
        "header_version" / u32,
        "utsname" / Bytes(6 * 65),
        Padding(6),
        "timestamp" / Bytes(16),
        "status" / u32,
        "block_size" / u32,
        "sub_hdr_size" / u32,  # in blocks
        "bitmap_blocks" / u32,  # both bitmaps
        "max_mapnr" / u32,
        "total_ram_blocks" / u32,
        "device_blocks" / u32,
        "written_blocks" / u32,
        "current_cpu" / u32,
        "nr_cpus" / u32,
    )
    sub_header = Struct(
        "phys_base" / u64,
        "dump_level" / u32,
        "split" / u32,
        "start_pfn" / u64,
        "end_pfn" / u64,
        "offset_vmcoreinfo" / u64,
        "size_vmcoreinfo" / u64,
        "offset_note" / u64,
        "note_size" / u64,
        "offset_eraseinfo" / u64,
        "size_eraseinfo" / u64,
        "start_pfn_64" / u64,  # these three from header_version 6 on
        "end_pfn_64" / u64,
        "max_mapnr_64" / u64,
    )
    return header, sub_header


HEADERS = {order: _structs(order) for order in ("<", ">")}
"""The header and the sub header as Construct definitions, by byte order."""


def page_descriptor(order: Order) -> "np.dtype[np.void]":
    """Return the page descriptor: place and size in the file (bytes), how it is packed."""
    fields = [("offset", "u8"), ("size", "u4"), ("flags", "u4"), ("page_flags", "u8")]
    return np.dtype(fields).newbyteorder(order)


class KdumpHeader(NamedTuple):
    """What reading pages needs. Offsets and sizes in bytes, page numbers in blocks.

    Pages from `start_pfn` up to, but not including, `end_pfn` are in this file:
    all of them, or one part's of a split dump. `bitmap_offset` is that of the
    bitmap of dumped pages.
    """

    order: Order
    block_size: int
    max_mapnr: int
    bitmap_offset: int
    bitmap_size: int
    descriptors_offset: int
    start_pfn: int
    end_pfn: int
    vmcoreinfo: tuple[int, int]


def parse_header(header: bytes, sub_header: bytes, order: Order) -> KdumpHeader | None:
    """Return the headers read in byte order `order`, or None if that makes no sense.

    `header` has `HEADER_BYTES` bytes and starts with the signature; `sub_header`
    starts one block later and may be shorter than `SUB_HEADER_BYTES`.
    """
    main_format, sub_format = HEADERS[order]
    main = main_format.parse(header)
    sub = sub_format.parse(sub_header.ljust(SUB_HEADER_BYTES, b"\0"))
    block = main.block_size
    if not MIN_BLOCK <= block <= MAX_BLOCK or block & block - 1:
        return None
    if main.header_version > MAX_VERSION or not main.bitmap_blocks:
        return None
    wide = main.header_version >= 6
    max_mapnr = sub.max_mapnr_64 if wide else main.max_mapnr
    start, end = 0, max_mapnr
    if main.header_version >= 2 and sub.split:
        start, end = (sub.start_pfn_64, sub.end_pfn_64) if wide else (sub.start_pfn, sub.end_pfn)
    bitmaps = (1 + main.sub_hdr_size) * block
    half = main.bitmap_blocks * block // 2
    has_vmcoreinfo = main.header_version >= 3
    return KdumpHeader(
        order=order,
        block_size=block,
        max_mapnr=max_mapnr,
        bitmap_offset=bitmaps + half,
        bitmap_size=half,
        descriptors_offset=bitmaps + 2 * half,
        start_pfn=start,
        end_pfn=min(end, max_mapnr),
        vmcoreinfo=(sub.offset_vmcoreinfo, sub.size_vmcoreinfo) if has_vmcoreinfo else (0, 0),
    )


def block_size_of(header: bytes, order: Order) -> int:
    """Return the block size (bytes) that a header claims in byte order `order`."""
    return int(HEADERS[order][0].parse(header).block_size)
