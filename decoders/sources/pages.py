"""Memory that comes in whole pages which cost something to get: packed dumps."""

from abc import abstractmethod
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.mapped import ADDRESS_END
from nestscope.decoders.sources.protocol import Rows
from nestscope.decoders.sources.source_memory import SourceMemory

CACHE_BYTES = 32 << 20
_FEW = 16
MAX_READ = 256 << 20


class PagedMemory(SourceMemory):
    """Physical memory by pages of `page_size` bytes, the last ones used kept.

    A derived class gets a page in `_load`.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cache_pages = max(CACHE_BYTES // page_size, 1)

    @abstractmethod
    def _load(self, number: int) -> bytes:
        """Return page `number` (the address divided by the page size).

        Raises:
            UnreadableMemoryError: with the page's address, if it is not there.
        """

    def _page(self, number: int) -> bytes:
        page = self._cache.get(number)
        if page is not None:
            self._cache.move_to_end(number)
            return page
        page = self._load(number)
        self._cache[number] = page
        if len(self._cache) > self._cache_pages:
            self._cache.popitem(last=False)
        return page

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if a page of it is not in the dump or damaged.
        """
        if length < 0 or length > MAX_READ or address < 0 or address + length > ADDRESS_END:
            raise UnreadableMemoryError(address, length, "no such range of physical addresses")
        size = self.page_size
        number, into = divmod(address, size)
        try:
            if into + length <= size:
                return self._page(number)[into : into + length]
            last = (address + length - 1) // size
            whole = b"".join(self._page(n) for n in range(number, last + 1))
        except UnreadableMemoryError as error:
            raise UnreadableMemoryError(address, length, error.why) from error
        return whole[into : into + length]

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`).

        Each page is unpacked once, however many rows lie in it.
        """
        if len(addresses) <= _FEW or not 0 < length <= self.page_size:
            return self._read_few(addresses.tolist(), length)
        size = np.uint64(self.page_size)
        numbers, into = addresses // size, (addresses % size).astype(np.intp)
        inside = into + length <= self.page_size
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        order = np.flatnonzero(inside)
        order = order[np.argsort(numbers[order], kind="stable")]
        sorted_numbers = numbers[order]
        starts = np.flatnonzero(np.diff(sorted_numbers, prepend=~sorted_numbers[:1]))
        for group in np.split(order, starts[1:]) if len(order) else []:
            try:
                page = np.frombuffer(self._page(int(numbers[group[0]])), np.uint8)
            except UnreadableMemoryError:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(page, length)
            rows[group] = windows[into[group]]
            good[group] = True
        across = np.flatnonzero(~inside)
        if len(across):
            rows[across], good[across] = self._read_few(addresses[across].tolist(), length)
        return rows, good

    def close(self) -> None:
        """Drop the pages that are kept."""
        self._cache.clear()
