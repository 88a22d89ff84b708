"""Write memory as an ELF64 core that drgn, crash and libkdumpfile accept."""

import struct
from collections.abc import Callable, Iterable, Sequence
from os import SEEK_END
from typing import BinaryIO, Literal

from nestscope.decoders.sources.elf_notes import Note, build_notes

LINEAR_START = 0xC000_0000_0000_0000
_CHUNK = 4 << 20
_EHDR, _PHDR, _SHDR = 64, 56, 64
_EM_PPC64 = 21
_ET_CORE = 4
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_ALIGN = 8
_READ_WRITE = 6

Order = Literal["<", ">"]


def write_core(
    file: BinaryIO,
    order: Order,
    notes: Iterable[Note],
    ranges: Sequence[tuple[int, int]],
    read: Callable[[int, int], bytes],
) -> None:
    """Write a core with one PT_LOAD for each physical range `(start, end)`.

    `order` is the byte order of the headers. `read(address, length)` gives the
    memory, at most 4 MiB at a time; zeros become holes in the file. `p_vaddr` is
    where the kernel's linear map has the memory.
    """
    note = build_notes(notes, order)
    count = 1 + len(ranges)
    extended = count >= _PN_XNUM
    headers = _EHDR + (_SHDR if extended else 0) + count * _PHDR
    file.write(_elf_header(order, count, extended))
    if extended:
        file.write(struct.pack(order + "IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    file.write(struct.pack(order + "IIQQQQQQ", _PT_NOTE, 0, headers, 0, 0, len(note), 0, 4))
    offset = _aligned(headers + len(note))
    for start, end in ranges:
        size = end - start
        values = (_PT_LOAD, _READ_WRITE, offset, LINEAR_START + start, start, size, size, 0)
        file.write(struct.pack(order + "IIQQQQQQ", *values))
        offset = _aligned(offset + size)
    file.write(note)
    at = _aligned(headers + len(note))
    for start, end in ranges:
        file.seek(at)
        for here in range(start, end, _CHUNK):
            data = read(here, min(_CHUNK, end - here))
            if data.count(0) == len(data):
                file.seek(len(data), 1)
            else:
                file.write(data)
        at = _aligned(at + end - start)
    # A hole at the end is only there once something follows it.
    if file.seek(0, SEEK_END) < at:
        file.seek(at - 1)
        file.write(b"\0")


def _elf_header(order: Order, count: int, extended: bool) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    phoff = _EHDR + (_SHDR if extended else 0)
    return struct.pack(
        order + "16sHHIQQQIHHHHHH",
        ident,
        _ET_CORE,
        _EM_PPC64,
        1,
        0,
        phoff,
        _EHDR if extended else 0,
        2,  # e_flags: ABI version 2
        _EHDR,
        _PHDR,
        _PN_XNUM if extended else count,
        _SHDR,
        1 if extended else 0,
        0,
    )


def _aligned(offset: int) -> int:
    return (offset + _ALIGN - 1) // _ALIGN * _ALIGN
