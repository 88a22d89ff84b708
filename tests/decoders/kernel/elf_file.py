"""Hand-made ELF files with sections and symbols: a vmlinux, or a module."""

import struct
from typing import NamedTuple

PROGBITS, SYMTAB, STRTAB, NOTE = 1, 2, 3, 7
FUNC, OBJECT, SECTION = 2, 1, 3
LOCAL, GLOBAL = 0, 1


class Sym(NamedTuple):
    """A symbol to be written."""

    name: str
    value: int
    size: int = 8
    kind: int = OBJECT
    binding: int = GLOBAL
    other: int = 0
    shndx: int = 1


def symbol_table(symbols: list[Sym], order: str) -> tuple[bytes, bytes]:
    """Return the bytes of `.symtab` (with its null symbol) and of its string table."""
    symtab, strtab = bytes(24), b"\0"
    for symbol in symbols:
        info = symbol.binding << 4 | symbol.kind
        head = (len(strtab), info, symbol.other, symbol.shndx)
        symtab += struct.pack(order + "IBBHQQ", *head, symbol.value, symbol.size)
        strtab += symbol.name.encode() + b"\0"
    return symtab, strtab


def build_id_note(build_id: bytes, order: str) -> bytes:
    """Return a Linux note, then the GNU build id, as vmlinux has them."""
    linux = struct.pack(order + "III", 6, 5, 257) + b"Linux\0\0\0" + b"6.12\0\0\0\0"
    return linux + struct.pack(order + "III", 4, len(build_id), 3) + b"GNU\0" + build_id


def elf_file(
    sections: list[tuple[str, int, bytes]],
    symbols: list[Sym] | None,
    *,
    order: str = "<",
    machine: int = 21,
) -> bytes:
    """Return an ELF64 file; sections are (name, link address, bytes)."""
    rows = [(name, PROGBITS, address, data, 0) for name, address, data in sections]
    if symbols is not None:
        symtab, strtab = symbol_table(symbols, order)
        rows.append((".symtab", SYMTAB, 0, symtab, len(rows) + 2))
        rows.append((".strtab", STRTAB, 0, strtab, 0))
    rows.append((".shstrtab", STRTAB, 0, b"", 0))
    names = b"\0" + b"".join(row[0].encode() + b"\0" for row in rows)
    rows[-1] = (".shstrtab", STRTAB, 0, names, 0)
    data, headers, name_at = b"", bytes(64), 1
    for name, kind, address, contents, link in rows:
        entry_size = 24 if kind == SYMTAB else 0
        place = (0, address, 64 + len(data), len(contents))
        headers += struct.pack(order + "IIQQQQIIQQ", name_at, kind, *place, link, 0, 1, entry_size)
        data += contents + bytes(-len(contents) % 8)
        name_at += len(name) + 1
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    count = len(rows) + 1
    counts = (0, 64, 0, 0, 64, count, count - 1)
    header = struct.pack(
        order + "16sHHIQQQIHHHHHH", ident, 2, machine, 1, 0, 0, 64 + len(data), *counts
    )
    return header + data + headers
