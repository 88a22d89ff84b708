"""Where a kernel is in memory: its banner and its build id.

`linux_banner` (init/version-timestamp.c) is in `.rodata`, a few megabytes behind
the kernel's start. The host's kernel is near the start of RAM, a crash kernel
where memory was reserved for it. A guest's kernel, or a vmlinux in the page
cache, has a banner as well; whoever uses one must check that it is the running
one (`kallsyms`: its address is the one that the kernel has for it).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.elf_image import find_build_id
from nestscope.decoders.sources.protocol import Memory

SCAN_BYTES = 256 << 20
MAX_BANNERS = 16
NOTE_WINDOW = 16 << 20
_CHUNK = 4 << 20
_GRAIN = 64 << 10  # what is tried alone where a chunk cannot be read whole
_OVERLAP = 1 << 10
_BANNER = re.compile(rb"Linux version (\d[\w.+~-]{0,99}) \([^\0\n]{1,600}\n\0")


class Banner(NamedTuple):
    """A banner: physical address, its bytes up to and with the NUL, the release it names."""

    address: int
    text: bytes
    release: str


def available(memory: Memory, start: int, length: int) -> Iterator[tuple[int, bytes]]:
    """Yield `(address, bytes)` of what can be read of a range, in pieces of at most 4 MiB."""
    for at in range(start, start + length, _CHUNK):
        size = min(_CHUNK, start + length - at)
        whole = _read(memory, at, size)
        if whole is not None:
            yield at, whole
            continue
        # A range that ends where RAM ends, or a dump with holes.
        for small in range(at, at + size, _GRAIN):
            piece = _read(memory, small, min(_GRAIN, at + size - small))
            if piece is not None:
                yield small, piece


def joined(pieces: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield runs of pieces that touch, each as one."""
    start, parts, end = 0, [b""], -1
    for at, data in pieces:
        if at != end:
            if end >= 0:
                yield start, b"".join(parts)
            start, parts = at, []
        parts.append(data)
        end = at + len(data)
    if end >= 0:
        yield start, b"".join(parts)


def _read(memory: Memory, at: int, size: int) -> bytes | None:
    try:
        return memory.read(at, size)
    except UnreadableMemoryError:
        return None


def find_banners(memory: Memory, scan_bytes: int = SCAN_BYTES) -> Iterator[Banner]:
    """Yield at most `MAX_BANNERS` banners in the first `scan_bytes` of memory, in order."""
    tail_at, tail = 0, b""
    found = 0
    for at, data in available(memory, 0, scan_bytes):
        if tail_at + len(tail) == at:
            at, data = tail_at, tail + data  # noqa: PLW2901 - a banner may lie across
        for match in _BANNER.finditer(data):
            yield Banner(at + match.start(), match[0], match[1].decode("ascii"))
            found += 1
            if found == MAX_BANNERS:
                return
        last = data.rfind(b"Linux version ", max(len(data) - _OVERLAP, 0))
        # Without the start of a banner only the start of its first words can be cut.
        keep = last if last >= 0 and not _BANNER.match(data, last) else len(data) - 13
        tail_at, tail = at + keep, data[keep:]


def banner_at(memory: Memory, address: int) -> Banner | None:
    """Return the banner at physical `address`, or None."""
    data = _read(memory, address, _OVERLAP)
    match = _BANNER.match(data) if data is not None else None
    return Banner(address, match[0], match[1].decode("ascii")) if match else None


def find_build_id_after(memory: Memory, address: int) -> tuple[ByteOrder, bytes, int] | None:
    """Return byte order, build id and physical address of the first GNU note behind `address`.

    `.notes` follows `.rodata`, and with it the banner. At most `NOTE_WINDOW` is read.
    """
    start = address & ~3
    for at, data in available(memory, start, NOTE_WINDOW):
        orders: tuple[ByteOrder, ...] = ("little", "big")
        found = []
        for order in orders:
            header = (4).to_bytes(4, order) + (20).to_bytes(4, order) + (3).to_bytes(4, order)
            place = data.find(header + b"GNU\0")
            if place >= 0 and not place & 3:
                build_id = find_build_id(data[place : place + 36], order)
                if build_id is not None and len(build_id) == 20:
                    found.append((place, order, build_id))
        if found:
            place, order, build_id = min(found)
            return order, build_id, at + place
    return None
