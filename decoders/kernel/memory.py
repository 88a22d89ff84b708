"""Kernel virtual memory on top of physical memory.

`0xc000...` is the linear map (`__va(pa)` is `pa | 0xc000000000000000`).
`0xc008...` and above, where vmalloc puts module data and large arrays, goes
through the kernel's own radix tree, `init_mm.pgd`
(arch/powerpc/include/asm/book3s/64/radix.h).
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.sources.protocol import Memory, Rows, read_many
from nestscope.decoders.words.pde import is_pde, next_bits, next_table
from nestscope.decoders.words.pte import PTE_LEAF, PTE_RPN, PTE_V, is_leaf, real_address

LINEAR_START = 0xC000_0000_0000_0000
LINEAR_END = 0xC008_0000_0000_0000
TREE_BITS = 52
ROOT_BITS = 13  # RADIX_PGD_INDEX_SIZE
MIN_PAGE_SHIFT = 12
MAX_TABLE_BITS = 13
MAX_READ = 256 << 20
_MAX_CACHED = 1 << 16
_BLOCK_SHIFT = 21  # PMD_SHIFT of both geometries: one last-level table maps so much
_BLOCK_PAGES = 1 << _BLOCK_SHIFT - MIN_PAGE_SHIFT
_MAX_BLOCKS = 1 << 12
_MIN_ROWS_A_BLOCK = 16
_UNKNOWN = (1 << 64) - 1
"""Instead of a frame: `read` has to find out."""
_ABSENT = _UNKNOWN - 1
"""Instead of a frame: nothing is mapped there, or a table on the way cannot be read."""
_KERNEL_REGION = 0xC00  # EA bits 0:11 of every kernel address


class KernelMemory:
    """Bytes at kernel virtual addresses. Satisfies `BulkMemory`.

    Translations are kept until `forget`, which whoever lets the kernel run
    must call. `byteorder` is that of the kernel's data.
    """

    def __init__(self, physical: Memory, pgd: int, byteorder: ByteOrder) -> None:
        """Translate with the tree whose root is at physical address `pgd`."""
        self.physical = physical
        self.pgd = pgd
        self.byteorder = byteorder
        self._tables: dict[int, tuple[int, ...]] = {}
        self._frames: dict[int, int] = {}
        self._blocks: dict[int, NDArray[np.uint64]] = {}

    def forget(self) -> None:
        """Drop all translations: the kernel has run."""
        self._tables.clear()
        self._frames.clear()
        self._blocks.clear()

    def translate(self, address: int) -> int:
        """Return the physical address of kernel address `address`.

        Raises:
            UnreadableMemoryError: if nothing is mapped there.
        """
        if LINEAR_START <= address < LINEAR_END:
            return address - LINEAR_START
        frame = self._frames.get(address >> MIN_PAGE_SHIFT)
        if frame is None:
            if len(self._frames) >= _MAX_CACHED:
                self.forget()
            frame = self._walk(address) >> MIN_PAGE_SHIFT
            self._frames[address >> MIN_PAGE_SHIFT] = frame
        return frame << MIN_PAGE_SHIFT | address & 0xFFF

    def _walk(self, address: int) -> int:
        """Return the physical address by a walk of the kernel's tree."""
        for shift, place, word in self._levels(address):
            if is_leaf(word):
                page = (1 << shift) - 1
                return real_address(word) & ~page | address & page
            if not is_pde(word):
                why = f"the kernel has it not mapped ({word:#x} at {place:#x})"
                raise UnreadableMemoryError(address, 1, why)
        raise AssertionError("a walk ends with a leaf or an error")

    def _levels(self, address: int) -> Iterator[tuple[int, int, int]]:
        """Yield `(shift, place, word)` of the entry at each level, while they lead on.

        `shift` is log2 of what the entry maps, `place` its physical address.
        """
        if address >> TREE_BITS != _KERNEL_REGION:
            raise UnreadableMemoryError(address, 1, "it is not an address of the kernel")
        table, bits, shift = self.pgd, ROOT_BITS, TREE_BITS
        while True:
            shift -= bits
            if shift < MIN_PAGE_SHIFT or not 0 < bits <= MAX_TABLE_BITS:
                raise UnreadableMemoryError(
                    address, 1, f"the kernel's page table at {table:#x} has no possible size"
                )
            index = address >> shift & (1 << bits) - 1
            word = self._entry(address, table, bits, index)
            yield shift, table + 8 * index, word
            table, bits = next_table(word), next_bits(word)

    def _entry(self, address: int, table: int, bits: int, index: int) -> int:
        """Return one entry of a table. Tables below the root are read whole and kept."""
        try:
            if bits == ROOT_BITS:
                return int.from_bytes(self.physical.read(table + 8 * index, 8), "big")
            words = self._tables.get(table)
            if words is None or len(words) != 1 << bits:
                words = struct.unpack(f">{1 << bits}Q", self.physical.read(table, 8 << bits))
                self._tables[table] = words
            return words[index]
        except UnreadableMemoryError as error:
            why = f"the kernel's page table at {table:#x} cannot be read: {error.why}"
            raise UnreadableMemoryError(address, 1, why) from error

    def _runs(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Cut a virtual range into runs: physical address and length."""
        if address < 0 or length < 0 or length > MAX_READ or address + length > 1 << 64:
            raise UnreadableMemoryError(address, length, "no such range of kernel addresses")
        done = 0
        while done < length:
            here = address + done
            start = self.translate(here)
            if LINEAR_START <= here < LINEAR_END:
                size = min(length - done, LINEAR_END - here)
            else:
                size = min(length - done, (here | 0xFFF) + 1 - here)
                while done + size < length and self.translate(here + size) == start + size:
                    size += min(length - done - size, 1 << MIN_PAGE_SHIFT)
            yield start, size
            done += size

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at kernel address `address`, across pages.

        Raises:
            UnreadableMemoryError: with the virtual address, if any byte is not
                mapped or its physical memory cannot be read.
        """
        try:
            if address >= LINEAR_START and address + length <= LINEAR_END:
                return self.physical.read(address - LINEAR_START, length)
            parts = [self.physical.read(start, size) for start, size in self._runs(address, length)]
        except UnreadableMemoryError as error:
            if error.address == address and error.length == length:
                raise
            why = f"at {error.address:#x}: {error.why}"
            raise UnreadableMemoryError(address, length, why) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        linear = (addresses >= LINEAR_START) & (addresses < LINEAR_END - length)
        if linear.all():
            return read_many(self.physical, addresses - np.uint64(LINEAR_START), length)
        physical, known, absent = self._translate_many(addresses, length)
        if known.all():
            return read_many(self.physical, physical, length)
        physical[linear] = addresses[linear] - np.uint64(LINEAR_START)
        known |= linear
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        if known.any():
            rows[known], good[known] = read_many(self.physical, physical[known], length)
        for row in np.flatnonzero(~known & ~absent).tolist():
            try:
                data = self.read(int(addresses[row]), length)
            except UnreadableMemoryError:
                continue
            rows[row] = np.frombuffer(data, np.uint8)
            good[row] = True
        return rows, good

    def _translate_many(
        self, addresses: NDArray[np.uint64], length: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Translate the addresses of which many lie together, block by block.

        The first flags say which ones: those of `length` bytes inside a page, in a
        block that is mapped in one of the usual ways. The second flags say where
        nothing is mapped. The others are for `read`.
        """
        blocks, which = np.unique(addresses >> np.uint64(_BLOCK_SHIFT), return_inverse=True)
        if len(blocks) * _MIN_ROWS_A_BLOCK > len(addresses):
            none = np.zeros(len(addresses), np.bool_)
            return addresses.copy(), none, none.copy()
        frames = np.stack([self._block(number) for number in blocks.tolist()])
        page = addresses >> np.uint64(MIN_PAGE_SHIFT) & np.uint64(_BLOCK_PAGES - 1)
        offset = addresses & np.uint64((1 << MIN_PAGE_SHIFT) - 1)
        frame = frames[which, page]
        inside = offset + np.uint64(length) <= np.uint64(1 << MIN_PAGE_SHIFT)
        absent = frame == _ABSENT
        known = inside & ~absent & (frame != _UNKNOWN)
        return frame << np.uint64(MIN_PAGE_SHIFT) | offset, known, absent

    def _block(self, number: int) -> NDArray[np.uint64]:
        """Return the physical frame of each 4 KiB of a block of 2 MiB, or what stands for one."""
        frames = self._blocks.get(number)
        if frames is None:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            try:
                frames = self._frames_of(number << _BLOCK_SHIFT)
            except UnreadableMemoryError:
                # `read` would fail in the same way, for each page.
                frames = np.full(_BLOCK_PAGES, _ABSENT, np.uint64)
            self._blocks[number] = frames
        return frames

    def _frames_of(self, address: int) -> NDArray[np.uint64]:
        """Return the frames of the block at `address`: in a huge page, or by its last table."""
        for shift, _, word in self._levels(address):
            if shift < _BLOCK_SHIFT:
                break
            if is_leaf(word):
                first = self._walk(address) >> MIN_PAGE_SHIFT
                return np.arange(first, first + _BLOCK_PAGES, dtype=np.uint64)
            if not is_pde(word):
                return np.full(_BLOCK_PAGES, _ABSENT, np.uint64)
            bits = next_bits(word)
            if shift == _BLOCK_SHIFT and 0 < bits <= _BLOCK_SHIFT - MIN_PAGE_SHIFT:
                data = self.physical.read(next_table(word), 8 << bits)
                ptes = np.frombuffer(data, ">u8").astype(np.uint64)
                pages = np.uint64(_BLOCK_PAGES >> bits)
                frame = (ptes & np.uint64(PTE_RPN)) >> np.uint64(MIN_PAGE_SHIFT) & ~(
                    pages - np.uint64(1)
                )
                inside = np.arange(pages, dtype=np.uint64)
                frames = frame[:, np.newaxis] + inside
                kind = ptes & np.uint64(PTE_LEAF)
                frames[kind != np.uint64(PTE_LEAF)] = _ABSENT
                frames[kind == np.uint64(PTE_V)] = _UNKNOWN  # a further level
                return frames.reshape(-1)
        return np.full(_BLOCK_PAGES, _UNKNOWN, np.uint64)

    def u32(self, address: int) -> int:
        """Return the 32-bit unsigned number at `address`, in the kernel's byte order.

        Raises:
            UnreadableMemoryError: if it cannot be read.
        """
        return int.from_bytes(self.read(address, 4), self.byteorder)

    def u64(self, address: int) -> int:
        """Return the 64-bit unsigned number or pointer at `address`.

        Raises:
            UnreadableMemoryError: if it cannot be read.
        """
        return int.from_bytes(self.read(address, 8), self.byteorder)

    def cstring(self, address: int, limit: int = 256) -> bytes:
        """Return the bytes at `address` up to a NUL, at most `limit` of them.

        Raises:
            UnreadableMemoryError: if memory ends before the NUL and before `limit`.
        """
        found = b""
        while len(found) < limit:
            # Up to the end of the page: what follows need not be mapped.
            here = address + len(found)
            piece = self.read(here, min(limit - len(found), (here | 0xFFF) + 1 - here))
            end = piece.find(b"\0")
            if end >= 0:
                return found + piece[:end]
            found += piece
        return found
