"""A writer of kallsyms tables, as scripts/kallsyms.c lays them out."""

import struct
from collections.abc import Mapping

# Characters that are used stand for themselves; free codes stand for pairs.
PAIRS = {1: b"__", 2: b"in", 0x80: b"er", 0xFF: b"kallsyms"}


def compressed(text: bytes) -> bytes:
    """Replace pairs by their codes."""
    for code, pair in PAIRS.items():
        text = text.replace(pair, bytes([code]))
    return text


def aligned(data: bytes, size: int = 8) -> bytes:
    return data + bytes(-len(data) % size)


def kallsyms_bytes(
    symbols: Mapping[str, int],
    order: str = "<",
    *,
    form: str = "after",
    address: int = 0,
    local: Mapping[str, int] | None = None,
) -> bytes:
    """Return the tables for `symbols`, by address.

    `form`: "after" (offsets and base behind the token index), "before" (in front of
    the number), "places" (offsets from their own place, without a base; `address`
    is where these bytes go), "words" (the same, all parts at multiples of 4 only),
    "whole" (addresses in front of the number). `local` are more symbols, of kind "t"
    instead of "T".
    """
    unit = 4 if form == "words" else 8
    both = [("T" + name, at) for name, at in symbols.items()]
    both += [("t" + name, at) for name, at in (local or {}).items()]
    rows = sorted(both, key=lambda item: item[1])
    names, markers = b"", []
    for number, (name, _) in enumerate(rows):
        if not number % 256:
            markers.append(len(names))
        tokens = compressed(name.encode())
        size = len(tokens)
        names += bytes([size] if size < 0x80 else [size & 0x7F | 0x80, size >> 7]) + tokens
    tokens = [PAIRS.get(code, bytes([code]) if 0x20 < code < 0x7F else b"") for code in range(256)]
    table, index = b"", []
    for token in tokens:
        index.append(len(table))
        table += token + b"\0"
    base = rows[0][1] if rows else 0
    middle = aligned(struct.pack(order + "I", len(rows)), unit) + aligned(names, unit)
    middle += aligned(struct.pack(f"{order}{len(markers)}I", *markers), unit)
    middle += aligned(table, unit) + struct.pack(order + "256H", *index)
    offsets = struct.pack(f"{order}{len(rows)}I", *[where - base for _, where in rows])
    relative = aligned(offsets) + struct.pack(order + "Q", base)
    if form == "after":
        return middle + relative
    if form == "before":
        return relative + middle
    if form == "whole":
        return struct.pack(f"{order}{len(rows)}Q", *[where for _, where in rows]) + middle
    first = address + len(middle)
    own = [where - (first + 4 * number) for number, (_, where) in enumerate(rows)]
    return middle + struct.pack(f"{order}{len(rows)}i", *own) + bytes(16)
