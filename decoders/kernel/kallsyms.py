"""The kernel's own symbol table in memory (kernel/kallsyms.c, scripts/kallsyms.c).

Nothing says where it is, but its parts prove each other: `kallsyms_token_index`
must give the offsets of the strings in `kallsyms_token_table`, the lengths in
`kallsyms_names` must lead from one name to the next up to `kallsyms_markers`,
which must repeat the offset of every 256th, and addresses must ascend. The parts
stand in one of two orders; 404bad70fcf7 ("scripts/kallsyms: change the output
order") swapped them. Each starts at a multiple of 8 bytes, or of 4 in kernels whose
addresses are relative to their own place (`output_label`, 7.2): both are tried.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.symbols import Symbol

MIN_SYMBOLS = 256
MAX_SYMBOLS = 1 << 22
MAX_TABLES = 8  # token tables that are tried in one window
MAX_CANDIDATES = 256  # places that may be `kallsyms_num_syms`, for one token table
_KERNEL = 0xC  # the first hexadecimal digit of every kernel address
_TOKENS = 256
_STEP = 256  # symbols between two markers
_ALIGNMENTS = (8, 4)
_FIRST_NAMES = 3  # that are looked at for all candidates at once
_MAX_NAME = 512  # KSYM_NAME_LEN
_MAX_TOKEN_TABLE = 16 << 10
# Every digit is in use as itself, so it is never replaced by a token.
_DIGITS = b"\0" + b"".join(b"%d\0" % digit for digit in range(10))
_KINDS = frozenset(bytes([kind]) for kind in b"AaBbDdRrTtVvWwGgSsNnUuCcIi?")


def find_kallsyms(data: bytes, address: int, byteorder: ByteOrder) -> dict[str, Symbol] | None:
    """Return the symbols of the first proper table in `data`, or None.

    `data` starts at the kernel address `address`, a multiple of 8. Sizes are 0 and
    `local_entry` is the address: the kernel keeps neither. Of several symbols
    of one name a global one is taken, else the first.
    """
    at = data.find(_DIGITS)
    for _ in range(MAX_TABLES):
        if at < 0:
            return None
        found = _Tables.around(data, address, at + 1, byteorder)
        if found is not None:
            return found
        at = data.find(_DIGITS, at + 1)
    return None


class _Tables:
    """One token table and what belongs to it. Offsets are into `data`."""

    def __init__(
        self, data: bytes, address: int, byteorder: ByteOrder, tokens: list[bytes]
    ) -> None:
        self._data = data
        self._address = address
        self._order = prefix(byteorder)
        self._tokens = tokens

    @classmethod
    def around(
        cls, data: bytes, address: int, digit: int, byteorder: ByteOrder
    ) -> dict[str, Symbol] | None:
        """Return the symbols of the token table whose token "0" is at `digit`, if it is one."""
        for alignment in _ALIGNMENTS:
            place = _token_index(data, digit, prefix(byteorder), alignment)
            if place is None:
                continue
            start, index, offsets = place
            tokens = [data[start + at : data.find(b"\0", start + at)] for at in offsets]
            tables = cls(data, address, byteorder, tokens)
            for count_at, count in tables._counts(start, alignment):
                starts = tables._names(count_at + alignment, count, start)
                if starts is None:
                    continue
                behind = _aligned(index + 2 * _TOKENS, alignment)
                addresses = tables._addresses(count_at, count, behind)
                if addresses is not None:
                    return tables._symbols(starts, addresses)
        return None

    def _counts(self, end: int, alignment: int) -> Iterator[tuple[int, int]]:
        """Yield `(place, value)` of each word before `end` that may be the number of symbols.

        The names follow at the next multiple of `alignment`.
        """
        numbers = np.frombuffer(self._data, self._order + "u4", end // 4)
        number = numbers[:: alignment // 4]
        places = alignment * np.arange(len(number), dtype=np.int64)
        # A symbol takes two bytes at least.
        fits = (number >= MIN_SYMBOLS) & (number <= MAX_SYMBOLS)
        fits &= 2 * number.astype(np.int64) < end - places
        if alignment == 8:
            padding = numbers[1::2]
            fits = fits[: len(padding)] & (padding == 0)
        rows = np.flatnonzero(fits)
        rows = rows[self._begin_names(alignment * rows + alignment)]
        tried = 0
        for row in rows.tolist():
            if self._plausible(alignment * row + alignment):
                yield alignment * row, int(number[row])
                tried += 1
                if tried == MAX_CANDIDATES:
                    return

    def _begin_names(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say for each place whether a few short names with kinds may start there."""
        data = np.frombuffer(self._data, np.uint8)
        kinds = np.array([token[:1] in _KINDS for token in self._tokens])
        last = len(data) - 2
        good = np.ones(len(places), np.bool_)
        at = places
        for _ in range(_FIRST_NAMES):
            here = np.minimum(at, last)
            size = data[here]
            # A long name has two bytes of length: left to `_plausible`.
            long = size >= 0x80
            good &= (at <= last) & (size > 0) & (long | kinds[data[here + 1]])
            at = np.where(long, at, at + 1 + size)
        return good

    def _plausible(self, at: int) -> bool:
        """Say whether a few names at `at` look like symbols with their kinds."""
        for _ in range(16):
            size, at = self._length(at)
            # The cheapest test first: nearly every candidate fails it.
            if not 0 < size <= _MAX_NAME or self._tokens[self._data[at]][:1] not in _KINDS:
                return False
            text = b"".join([self._tokens[code] for code in self._data[at : at + size]])
            if len(text) < 2 or not text.isascii():
                return False
            at += size
        return True

    def _length(self, at: int) -> tuple[int, int]:
        """Return the length of the name at `at` in tokens, and where they start.

        Two bytes for a long one since 73bbb94466fd ("kallsyms: support "big"
        kernel symbols").
        """
        if at + 1 >= len(self._data):
            return 0, at
        size = self._data[at]
        if size & 0x80:
            return size & 0x7F | self._data[at + 1] << 7, at + 2
        return size, at + 1

    def _names(self, at: int, count: int, end: int) -> list[tuple[int, int]] | None:
        """Return `(start, end)` of each name's tokens, if the markers agree."""
        first, data = at, self._data
        spans: list[tuple[int, int]] = []
        markers: list[int] = []
        for number in range(count):
            if at >= end:
                return None
            if not number % _STEP:
                markers.append(at - first)
            size, start = data[at], at + 1
            if size & 0x80:
                size, start = self._length(at)
            at = start + size
            spans.append((start, at))
        expected = struct.pack(f"{self._order}{len(markers)}I", *markers)
        # Only padding lies between: how much depends on the alignment (4 or 8).
        tail = data[at : at + 8 + len(expected)]
        where = tail.find(expected)
        return spans if 0 <= where < 8 and not any(tail[:where]) else None

    def _addresses(self, count_at: int, count: int, after: int) -> list[int] | None:
        """Return every symbol's address, by whichever form of the table is there.

        `after` is where a table behind the token index starts.
        """
        offsets = _aligned(4 * count, 8)
        # Behind the token index, or before the number of symbols.
        for table in (after, count_at - 8 - offsets):
            base = self._words("u8", table + offsets, 1)
            values = self._words("u4", table, count)
            if base is not None and values is not None and int(base[0]) >> 60 == _KERNEL:
                found = values.astype(np.uint64) + base
                if _ascend(found):
                    return [int(value) for value in found.tolist()]
        # Each offset from its own place, without a base: since a081b5789255.
        relative = self._words("i4", after, count)
        if relative is not None:
            places = self._address + after + 4 * np.arange(count, dtype=np.uint64)
            found = places + relative.astype(np.int64).view(np.uint64)
            if _ascend(found):
                return [int(value) for value in found.tolist()]
        whole = self._words("u8", count_at - 8 * count, count)
        if whole is not None and _ascend(whole):
            return [int(value) for value in whole.tolist()]
        return None

    def _words(self, kind: str, at: int, count: int) -> NDArray[Any] | None:
        """Return `count` numbers at offset `at`, or None if they are not in the data."""
        dtype = np.dtype(self._order + kind)
        if at < 0 or at + count * dtype.itemsize > len(self._data):
            return None
        return np.frombuffer(self._data, dtype, count, at).astype(dtype.newbyteorder("="))

    def _symbols(self, spans: list[tuple[int, int]], addresses: list[int]) -> dict[str, Symbol]:
        data, tokens = self._data, self._tokens
        found: dict[str, Symbol] = {}
        for (start, end), address in zip(spans, addresses, strict=True):
            text = b"".join([tokens[code] for code in data[start:end]]).decode("utf-8", "replace")
            name = text[1:]
            if name not in found or text[0].isupper():
                found[name] = Symbol(name, address, 0, address)
        return found


def _ascend(addresses: NDArray[np.uint64]) -> bool:
    """Say whether these may be the kernel's symbols: in its address space, in order."""
    kernel = addresses >> np.uint64(60) == _KERNEL
    return bool(kernel.all() and (addresses[1:] >= addresses[:-1]).all())


def _aligned(at: int, alignment: int) -> int:
    return (at + alignment - 1) & -alignment


def _token_index(
    data: bytes, digit: int, order: str, alignment: int
) -> tuple[int, int, list[int]] | None:
    """Return where token table and token index start, and the index, if they agree."""
    zero = ord("0")
    at, ends = digit, []
    for _ in range(_TOKENS - zero):
        at = data.find(b"\0", at, digit + _MAX_TOKEN_TABLE) + 1
        if not at:
            return None
        ends.append(at)
    index = _aligned(at, alignment)
    if index + 2 * _TOKENS > len(data):
        return None
    offsets = list(struct.unpack_from(f"{order}{_TOKENS}H", data, index))
    start = digit - offsets[zero]
    if start < 0 or offsets[0] or [start + place for place in offsets[zero + 1 :]] != ends[:-1]:
        return None
    for number in range(zero):
        if data.find(b"\0", start + offsets[number]) + 1 != start + offsets[number + 1]:
            return None
    return start, index, offsets
