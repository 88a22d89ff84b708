"""The words of an rmap array, read in bulk. Most are 0 and are dropped at once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory, read_many
from nestscope.decoders.state import Problem
from nestscope.decoders.words.field import ByteOrder

MAX_NPAGES = (1 << 31) - 1
"""Pages of a memslot at most: Linux's KVM_MEM_MAX_NR_PAGES."""

MAX_UNREADABLE = 256 << 20
"""Unreadable bytes after which the rest of an array is given up."""

_WORD = 8
_PIECE = 4096
"""The array is vmalloc memory: what is unreadable is so by whole pages, of 4 KiB or more."""

_BATCH = 4 << 20
_SMALL = 1 << 16
"""So few bytes are quicker in one read than page by page."""

MAX_PROBLEMS = 1000

Words = NDArray[np.uint64]


def read_words(
    memory: Memory,
    rmap_array: int,
    npages: int,
    base_gfn: int,
    byteorder: ByteOrder,
    *,
    path: str,
) -> tuple[Words, Words, list[Problem]]:
    """Return the non-zero words of an rmap array, in host order, and their positions.

    `rmap_array` is the kernel virtual address of the first word. Pieces that
    cannot be read are problems with the path `path`; the rest is returned.
    """
    if not 0 <= npages <= MAX_NPAGES or not 0 <= rmap_array <= (1 << 64) - npages * _WORD:
        why = f"an rmap of {npages} words at {rmap_array:#x} is not possible; it is not read"
        none = np.empty(0, np.uint64)
        return none, none, [Problem(path, why, rmap_array)]
    positions: list[Words] = []
    words: list[Words] = []
    gaps = _Gaps(rmap_array, base_gfn, path)
    end = rmap_array + npages * _WORD
    for start in range(rmap_array, end, _BATCH):
        for address, raw in _pieces(memory, start, min(_BATCH, end - start), gaps):
            # Two steps: the search through a mask is four times as fast.
            at = np.flatnonzero(raw != 0)
            if len(at):
                positions.append(at.astype(np.uint64) + np.uint64((address - rmap_array) // _WORD))
                words.append(raw[at].view(">u8" if byteorder == "big" else "<u8"))
        if gaps.total >= MAX_UNREADABLE and start + _BATCH < end:
            gaps.add(start + _BATCH, end - start - _BATCH)
            break
    if not words:
        return np.empty(0, np.uint64), np.empty(0, np.uint64), gaps.problems()
    return np.concatenate(positions), np.concatenate(words).astype(np.uint64), gaps.problems()


@dataclass
class _Gaps:
    """What could not be read; neighbours become one problem."""

    rmap_array: int
    base_gfn: int
    path: str
    ranges: list[tuple[int, int]] = field(default_factory=list)
    total: int = 0

    def add(self, address: int, length: int) -> None:
        self.total += length
        if self.ranges and sum(self.ranges[-1]) == address:
            start, before = self.ranges.pop()
            address, length = start, before + length
        self.ranges.append((address, length))

    def problems(self) -> list[Problem]:
        told = [self._problem(*gap) for gap in self.ranges[:MAX_PROBLEMS]]
        if len(self.ranges) > MAX_PROBLEMS:
            more = len(self.ranges) - MAX_PROBLEMS
            told.append(Problem(self.path, f"{more} further problems are not listed"))
        return told

    def _problem(self, address: int, length: int) -> Problem:
        first = self.base_gfn + (address - self.rmap_array) // _WORD
        last = first + length // _WORD - 1
        return Problem(self.path, f"the words of gfns {first} to {last} cannot be read", address)


def _pieces(memory: Memory, start: int, length: int, gaps: _Gaps) -> Iterator[tuple[int, Words]]:
    """Read a batch, in one piece if that works; words come in memory order."""
    if length <= _SMALL or start % _PIECE:
        try:
            yield start, np.frombuffer(memory.read(start, length), np.uint64)
            return
        except UnreadableMemoryError:
            pass  # some piece of it, which is found below
    whole = length // _PIECE
    addresses = np.uint64(start) + np.arange(whole, dtype=np.uint64) * np.uint64(_PIECE)
    rows, good = read_many(memory, addresses, _PIECE)
    if good.all():
        yield start, rows.reshape(-1).view(np.uint64)
    else:
        for at, readable in enumerate(good.tolist()):
            if readable:
                yield start + at * _PIECE, rows[at].view(np.uint64)
            else:
                gaps.add(start + at * _PIECE, _PIECE)
    rest = length - whole * _PIECE
    if rest:
        try:
            tail = memory.read(start + whole * _PIECE, rest)
        except UnreadableMemoryError:
            gaps.add(start + whole * _PIECE, rest)
        else:
            yield start + whole * _PIECE, np.frombuffer(tail, np.uint64)
