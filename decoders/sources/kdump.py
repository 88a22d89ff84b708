"""kdump-compressed dumps, as makedumpfile and QEMU's `dump-guest-memory` write them.

Nothing but the headers and the bitmap is read when the dump is opened. The
descriptor of a page is found by counting the bits before it in the bitmap.
"""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.kdump_header import (
    HEADER_BYTES,
    SIGNATURE,
    SUB_HEADER_BYTES,
    KdumpHeader,
    block_size_of,
    page_descriptor,
    parse_header,
)
from nestscope.decoders.sources.mapped import FileMemory, SourceFileError
from nestscope.decoders.sources.page_codecs import CodecError, unpack_page
from nestscope.decoders.sources.pages import PagedMemory

MAX_BITMAP = 256 << 20
"""Bytes of a bitmap: 8 TiB of memory in 4K pages, 128 TiB in 64K pages."""

MAX_RANGES = 1 << 22
"""Ranges of pages; a bitmap with every other bit set has 2**30, more than memory holds."""

_RUN = 64  # bytes of the bitmap whose set bits are counted together
_PIECE = 1 << 20  # bytes of the bitmap whose bits are looked at together


class KdumpFile(PagedMemory):
    """Physical memory from a kdump-compressed dump.

    A page that was left out of the dump cannot be read; it is not zero.
    """

    kind = "kdump"

    def __init__(self, contents: FileMemory) -> None:
        """Read the headers from `contents`: the file's bytes, by offset in the file.

        `contents` is taken over. A flattened dump has been put in order by
        `flattened.file_order`.

        Raises:
            SourceFileError: if it is no such dump, or its headers do not hold together.
        """
        self.name = contents.name
        self._contents = contents
        try:
            self.header = _read_headers(contents)
            self._bitmap = _read_bitmap(contents, self.header)
        except SourceFileError:
            contents.close()
            raise
        super().__init__(self.header.block_size)
        self._descriptor = page_descriptor(self.header.order)
        self._before = _counts_before(self._bitmap)
        # A part of a split dump has descriptors of its own pages only.
        self._first = self._rank(self.header.start_pfn)

    def _rank(self, number: int) -> int:
        """Return how many pages before page `number` are in the dump."""
        byte, bit = divmod(number, 8)
        if byte >= len(self._bitmap):
            return int(self._before[-1])
        run = byte // _RUN
        between = int(_BITS[self._bitmap[run * _RUN : byte]].sum())
        last = int(self._bitmap[byte]) if bit else 0
        return int(self._before[run]) + between + (last & (1 << bit) - 1).bit_count()

    def _load(self, number: int) -> bytes:
        offset, packed, flags = self._packed(number)
        try:
            return unpack_page(packed, flags, self.page_size)
        except CodecError as error:
            why = f"the page at {offset:#x} of {self.name}: {error}"
            raise self._unreadable(number * self.page_size, why) from error

    def _packed(self, number: int) -> tuple[int, bytes, int]:
        """Return where page `number` is in the file, its bytes there, and its flags.

        Raises:
            UnreadableMemoryError: if it is not in the dump, or not in the file.
        """
        address = number * self.page_size
        if not self.header.start_pfn <= number < self.header.end_pfn:
            raise self._unreadable(address, f"{self.name} ends before it, or holds another part")
        if not self._has(number):
            raise self._unreadable(address, f"the page was left out of {self.name}")
        place = self.header.descriptors_offset
        place += (self._rank(number) - self._first) * self._descriptor.itemsize
        raw = self._in_file(address, place, self._descriptor.itemsize)
        offset, size, flags, _ = np.frombuffer(raw, self._descriptor)[0].item()
        if size > 2 * self.page_size:
            raise self._unreadable(address, f"its descriptor claims {size} bytes")
        return offset, self._in_file(address, offset, size), flags

    def _in_file(self, address: int, offset: int, size: int) -> bytes:
        """Return bytes of the file that the page at `address` needs."""
        try:
            return self._contents.read(offset, size)
        except UnreadableMemoryError as error:
            raise self._unreadable(address, f"{self.name} is cut short ({error.why})") from error

    def _has(self, number: int) -> bool:
        """Say whether the bitmap has page `number`."""
        byte, bit = divmod(number, 8)
        return byte < len(self._bitmap) and bool(int(self._bitmap[byte]) >> bit & 1)

    def _unreadable(self, address: int, why: str) -> UnreadableMemoryError:
        return UnreadableMemoryError(address, self.page_size, why)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the physical ranges of the pages in the dump (see `SourceMemory`).

        Raises:
            SourceFileError: if there are more than `MAX_RANGES`.
        """
        first, end = self.header.start_pfn, self.header.end_pfn
        edges = []
        found = 0
        before = np.uint8(0)
        # Piece by piece: a bit takes a byte here, and a bitmap may have 2**31.
        for start in range(0, len(self._bitmap), _PIECE):
            bits = np.unpackbits(self._bitmap[start : start + _PIECE], bitorder="little")
            number = start * 8
            bits[: max(first - number, 0)] = 0
            bits[max(end - number, 0) :] = 0
            edges.append(np.flatnonzero(np.diff(bits, prepend=before)) + number)
            found += len(edges[-1])
            if found > 2 * MAX_RANGES:
                raise SourceFileError(
                    f"{self.name} holds more than {MAX_RANGES} separate ranges of pages before "
                    f"{(number + len(bits)) * self.page_size:#x}: its page bitmap at "
                    f"{self.header.bitmap_offset:#x} is damaged, make the dump again"
                )
            before = bits[-1]
        if before:
            edges.append(np.array([len(self._bitmap) * 8]))
        none = np.empty(0, np.int64)
        pairs = (np.concatenate([none, *edges]) * self.page_size).reshape(-1, 2).tolist()
        return [(start, end) for start, end in pairs]

    def vmcoreinfo(self) -> bytes | None:
        """Return the VMCOREINFO text that the dump carries, or None."""
        offset, size = self.header.vmcoreinfo
        if not 0 < size <= 1 << 20:
            return None
        try:
            return self._contents.read(offset, size)
        except UnreadableMemoryError:
            return None

    def close(self) -> None:
        """Unmap the file; reading is an error afterwards. Closing twice is harmless."""
        super().close()
        self._bitmap = np.empty(0, np.uint8)
        self._contents.close()


_BITS = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def _counts_before(bitmap: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number of set bits before each run of the bitmap, and after the last."""
    padded = np.zeros(-(-len(bitmap) // _RUN) * _RUN, np.uint8)
    padded[: len(bitmap)] = _BITS[bitmap]
    counts = padded.reshape(-1, _RUN).sum(axis=1, dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _read_headers(contents: FileMemory) -> KdumpHeader:
    """Return the headers, in the one byte order in which they make sense."""
    try:
        header = contents.read(0, HEADER_BYTES)
    except UnreadableMemoryError as error:
        raise SourceFileError(f"{contents.name} is cut short in its header") from error
    if not header.startswith(SIGNATURE):
        raise SourceFileError(f"{contents.name} is not a kdump-compressed dump")
    for order in ("<", ">"):
        # A value that makes no sense leads nowhere; parse_header then says no.
        sub_header = _read_or_nothing(contents, block_size_of(header, order))
        found = parse_header(header, sub_header, order)
        if found is not None:
            return found
    raise SourceFileError(
        f"the header of {contents.name} makes no sense in either byte order "
        f"(block size {block_size_of(header, '<'):#x} or {block_size_of(header, '>'):#x}); "
        "it is damaged, make the dump again"
    )


def _read_or_nothing(contents: FileMemory, offset: int) -> bytes:
    try:
        return contents.read(offset, SUB_HEADER_BYTES)
    except UnreadableMemoryError:
        return b""


def _read_bitmap(contents: FileMemory, header: KdumpHeader) -> NDArray[np.uint8]:
    """Return the bitmap of dumped pages, one bit a page, the lowest bit first."""
    size = min(header.bitmap_size, -(-header.max_mapnr // 8))
    if size > MAX_BITMAP:
        raise SourceFileError(
            f"{contents.name} claims {header.max_mapnr} pages, whose bitmap is too large to "
            "read; its header is damaged, or memory lies very high: make an ELF dump"
        )
    if not size:
        raise SourceFileError(f"{contents.name} claims to hold no page; its header is damaged")
    try:
        data = contents.read(header.bitmap_offset, size)
    except UnreadableMemoryError as error:
        raise SourceFileError(
            f"{contents.name} is cut short in its page bitmap at {header.bitmap_offset:#x}"
        ) from error
    return np.frombuffer(data, np.uint8)
