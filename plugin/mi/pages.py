"""Pages of a stopped target: those that were read, and how to fetch others with few commands."""

from collections.abc import Iterable, Sequence

PAGE = 4096
"""Unit of reading and keeping in bytes. Not the kernel's page size: QEMU lays out
RAM in multiples of it."""


def covered(ranges: Sequence[range], address: int, length: int) -> bool:
    """Whether one of the ranges holds all `length` bytes at `address`."""
    return any(r.start <= address and address + length <= r.stop for r in ranges)


def pages_of(address: int, length: int) -> range:
    """Return the numbers of the pages that hold `length` bytes at `address`."""
    return range(address // PAGE, -(-(address + length) // PAGE))


def runs_of(
    pages: Sequence[int], longest: int, gap: int = 0, ram: Sequence[range] = ()
) -> list[tuple[int, int]]:
    """Merge ascending page numbers to (address, length in bytes), at most `longest` bytes each.

    Up to `gap` bytes that nobody asked for are included where a run stays in `ram`.
    """
    runs: list[tuple[int, int]] = []
    for page in pages:
        address = page * PAGE
        if runs:
            start = runs[-1][0]
            length = address + PAGE - start
            near = address - sum(runs[-1]) <= gap and length <= longest
            if near and (not gap or covered(ram, start, length)):
                runs[-1] = (start, length)
                continue
        runs.append((address, PAGE))
    return runs


class PageStore:
    """Pages by number. Once there are more than `most` bytes the next fetch begins afresh."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pages: dict[int, bytes] = {}

    def clear(self) -> None:
        """Forget all pages."""
        self._pages.clear()

    def missing(self, pages: Iterable[int]) -> set[int]:
        """Return those of `pages` that must be fetched; make room for them."""
        if len(self._pages) * PAGE > self._most:
            self._pages.clear()
        return set(pages) - self._pages.keys()

    def keep(self, address: int, data: bytes) -> None:
        """Keep `data`, whole pages from `address` on, a multiple of the page."""
        first = address // PAGE
        for offset in range(0, len(data), PAGE):
            self._pages[first + offset // PAGE] = data[offset : offset + PAGE]

    def has(self, page: int) -> bool:
        """Say whether a page is kept."""
        return page in self._pages

    def read(self, address: int, length: int) -> bytes | None:
        """Return `length` bytes at `address`, or None if one of the pages is not kept."""
        first, offset = divmod(address, PAGE)
        if offset + length <= PAGE:  # nearly always
            page = self._pages.get(first)
            return None if page is None and length else (page or b"")[offset : offset + length]
        pages = [self._pages.get(number) for number in pages_of(address, length)]
        if None in pages:
            return None
        return b"".join(page for page in pages if page is not None)[offset : offset + length]
