"""Where things go in the image: physical memory, and vmalloc areas on top of it."""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.kernel.memory import LINEAR_END, LINEAR_START
from nestscope.decoders.state import LEAF, Columns
from nestscope.decoders.words.pte import PTE_C, PTE_EAA_READ, PTE_EAA_WRITE, PTE_LEAF, PTE_R
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.memory import Region, SparseMemory

VMALLOC_START = LINEAR_END
"""`RADIX_VMALLOC_START`; the linear map ends where it starts."""

_VMALLOC_PTE = PTE_LEAF | PTE_R | PTE_C | PTE_EAA_READ | PTE_EAA_WRITE
_REGION_ALIGN = 1 << 16
_CHUNK = 1 << 18
_EA_MASK = (1 << 52) - 1

Numbers = NDArray[np.uint64]


class Arena:
    """Hands out zeroed physical memory from `base` upwards, without gaps.

    With a `seed`, things that a kernel allocates one by one (tables, nodes,
    pages of vmalloc) are laid down in random order; without, in order.
    """

    def __init__(self, base: int = 0, seed: int | None = None) -> None:
        self._next = base + (-base % _REGION_ALIGN)
        self._random = None if seed is None else np.random.default_rng(seed)
        self._regions: list[Region] = []
        self._chunk: Region | None = None
        self._used = 0

    def region(self, size: int) -> Region:
        """Return fresh memory of at least `size` bytes, aligned to 64 KiB."""
        size = max(size, 1)
        size += -size % _REGION_ALIGN
        fresh = Region(self._next, np.zeros(size, np.uint8))
        self._regions.append(fresh)
        self._next = fresh.end
        return fresh

    def allocate(self, size: int, align: int = 128) -> int:
        """Return the physical address of `size` bytes for a single structure."""
        if size > _CHUNK // 4:
            return self.region(size).start
        at = self._used + -self._used % align
        if self._chunk is None or at + size > _CHUNK:
            self._chunk, at = self.region(_CHUNK), 0
        self._used = at + size
        return self._chunk.start + at

    def order(self, count: int) -> NDArray[np.int64]:
        """Return in which of `count` places each of `count` things goes."""
        if self._random is None:
            return np.arange(count, dtype=np.int64)
        return self._random.permutation(count)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes into memory that was handed out."""
        at = bisect_right(self._regions, address, key=lambda region: region.start) - 1
        start, whole = self._regions[at]
        whole[address - start : address - start + len(data)] = np.frombuffer(data, np.uint8)

    def memory(self) -> SparseMemory:
        """Return everything that was handed out. Nothing is copied."""
        return SparseMemory(self._regions)


class VmallocArea:
    """Virtually contiguous memory of base pages; `address` is its kernel address."""

    def __init__(self, address: int, region: Region, pages: NDArray[np.int64], shift: int) -> None:
        self.address = address
        self._region = region
        self._pages = pages
        self._shift = shift

    def store(self, index: Numbers, words: Numbers, order: str) -> None:
        """Store 64-bit words at positions `index` (counted in words), in a byte order (<, >)."""
        bits = np.uint64(self._shift - 3)
        page = self._pages[(index >> bits).astype(np.int64)]
        inside = (index & np.uint64((1 << int(bits)) - 1)).astype(np.int64)
        self._region.data.view(order + "u8")[(page << int(bits)) + inside] = words

    def leaves(self) -> Columns:
        """Return the leaves that map it."""
        columns = np.empty(len(self._pages), LEAF)
        page = np.arange(len(self._pages), dtype=np.uint64) << np.uint64(self._shift)
        columns["address"] = np.uint64(self.address & _EA_MASK) + page
        columns["shift"] = self._shift
        frames = self._pages.astype(np.uint64) << np.uint64(self._shift)
        columns["pte"] = np.uint64(_VMALLOC_PTE) | (np.uint64(self._region.start) + frames)
        return columns


class Vmalloc:
    """`vmalloc()`: areas of base pages, with an unmapped guard page after each."""

    def __init__(self, arena: Arena, page_shift: int) -> None:
        self._arena = arena
        self._shift = page_shift
        self._next = VMALLOC_START
        self._areas: list[VmallocArea] = []

    def allocate(self, size: int) -> VmallocArea:
        """Return a zeroed area of `size` bytes, rounded up to whole pages."""
        count = max(1, -(-size >> self._shift))
        region = self._arena.region(count << self._shift)
        area = VmallocArea(self._next, region, self._arena.order(count), self._shift)
        self._next += (count + 1) << self._shift
        self._areas.append(area)
        return area

    def leaves(self) -> Columns:
        """Return what the kernel's page directory has to map."""
        return np.concatenate([area.leaves() for area in self._areas] or [np.empty(0, LEAF)])


def linear(physical: int) -> int:
    """Return the kernel address of a physical one (`__va`).

    Raises:
        ImageError: if the linear map does not reach there.
    """
    if not 0 <= physical < LINEAR_END - LINEAR_START:
        raise ImageError(f"the linear map does not reach physical address {physical:#x}")
    return LINEAR_START | physical
