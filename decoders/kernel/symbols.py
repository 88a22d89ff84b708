"""Symbols: of vmlinux, and of modules at the addresses where they are loaded."""

from collections.abc import Iterable, Iterator
from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.elf_image import ElfImage, KernelFileError

# Elf64_Sym
_SYM = [
    ("name", "u4"),
    ("info", "u1"),
    ("other", "u1"),
    ("shndx", "u2"),
    ("value", "u8"),
    ("size", "u8"),
]
SYM_SIZE = 24
_STB_LOCAL = 0
_STT_OBJECT = 1
_STT_SECTION = 3
_STT_FILE = 4


class UnknownSymbolError(NestscopeError):
    """The kernel has no such symbol."""


class Symbol(NamedTuple):
    """A symbol: kernel virtual address, size in bytes, and local entry point.

    `local_entry` is where calls inside the same module or kernel arrive
    (ELFv2 ABI, section 2.3.2.1 and st_other bits 5:7); it is `address` for data
    and for functions that need no global entry.
    """

    name: str
    address: int
    size: int
    local_entry: int


class Placed(NamedTuple):
    """A module's symbol by the section that holds it, as the module's file has it."""

    section: str
    offset: int
    size: int


class SymbolTable:
    """Symbols by name. Global symbols come before local ones of the same name."""

    def __init__(self, symtab: bytes, strtab: bytes, byteorder: ByteOrder) -> None:
        """Take the bytes of an Elf64_Sym array and its string table.

        Undefined, section and file symbols are left out, and so are names
        outside the string table.
        """
        row = np.dtype(_SYM).newbyteorder(prefix(byteorder))
        rows = np.frombuffer(symtab, row, len(symtab) // SYM_SIZE)
        kind = rows["info"] & 0xF
        keep = (rows["shndx"] != 0) & (kind != _STT_SECTION) & (kind != _STT_FILE)
        self._rows: NDArray[np.void] = rows[keep & (rows["name"] < len(strtab))]
        self._row_of = _index_names(self._rows, strtab)
        self._more: dict[str, Symbol] = {}
        self._shift = 0

    @classmethod
    def of_image(cls, image: ElfImage) -> "SymbolTable":
        """Read `.symtab` of an ELF file.

        Raises:
            KernelFileError: if it has none (a stripped image).
        """
        symtab = image.section(".symtab")
        if symtab is None or symtab.link >= len(image.sections):
            raise KernelFileError(f"{image.name} has no symbol table; give the unstripped vmlinux")
        strtab = image.sections[symtab.link]
        return cls(image.contents(symtab), image.contents(strtab), image.byteorder)

    @classmethod
    def of_symbols(cls, symbols: Iterable[Symbol]) -> "SymbolTable":
        """Make a table of symbols known from elsewhere. The first of a name stays."""
        table = cls(b"", b"", "little")
        table.add(symbols)
        return table

    def add(self, symbols: Iterable[Symbol]) -> None:
        """Add symbols whose names are not there yet."""
        for symbol in symbols:
            if symbol.name not in self._row_of:
                self._more.setdefault(symbol.name, symbol)

    def shifted(self, distance: int) -> "SymbolTable":
        """Return the same symbols, `distance` bytes further: a relocated kernel's."""
        table = copy(self)
        table._shift = self._shift + distance
        table._more = {symbol.name: _moved(symbol, distance) for symbol in self._more.values()}
        return table

    def __len__(self) -> int:
        return len(self._row_of) + len(self._more)

    def __contains__(self, name: str) -> bool:
        return name in self._row_of or name in self._more

    def __iter__(self) -> Iterator[str]:
        yield from self._row_of
        yield from self._more

    def __getitem__(self, name: str) -> Symbol:
        """Return the symbol.

        Raises:
            UnknownSymbolError: if there is none of that name.
        """
        found = self.get(name)
        if found is None:
            raise UnknownSymbolError(f"the kernel has no symbol {name}")
        return found

    def get(self, name: str) -> Symbol | None:
        """Return the symbol, or None."""
        at = self._row_of.get(name)
        if at is None:
            return self._more.get(name)
        _, _, other, _, address, size = self._rows[at].item()
        address += self._shift
        return Symbol(name, address, size, address + local_entry_offset(other))


def placed_symbols(image: ElfImage) -> dict[str, Placed]:
    """Return the data symbols of a module's file by name; empty if it is stripped.

    Raises:
        KernelFileError: if the file is cut short.
    """
    symtab = image.section(".symtab")
    if symtab is None or symtab.link >= len(image.sections):
        return {}
    strtab = image.contents(image.sections[symtab.link])
    row = np.dtype(_SYM).newbyteorder(prefix(image.byteorder))
    data = image.contents(symtab)
    rows = np.frombuffer(data, row, len(data) // SYM_SIZE)
    rows = rows[(rows["info"] & 0xF == _STT_OBJECT) & (rows["shndx"] < len(image.sections))]
    found: dict[str, Placed] = {}
    for start, _, _, section, offset, size in rows.tolist():
        name = strtab[start : strtab.find(b"\0", start)].decode("utf-8", "replace")
        found.setdefault(name, Placed(image.sections[section].name, offset, size))
    return found


def _moved(symbol: Symbol, distance: int) -> Symbol:
    return Symbol(
        symbol.name, symbol.address + distance, symbol.size, symbol.local_entry + distance
    )


def local_entry_offset(st_other: int) -> int:
    """Return the distance in bytes from a function's symbol to its local entry.

    The ABI's PPC64_LOCAL_ENTRY_OFFSET: 0 and 1 mean none, n means 2**n.
    """
    exponent = st_other >> 5
    return (1 << exponent) & ~3


def _index_names(rows: NDArray[np.void], strtab: bytes) -> dict[str, int]:
    """Return the row of each name."""
    row_of: dict[str, int] = {}
    local = (rows["info"] >> 4 == _STB_LOCAL).tolist()
    for at, start in enumerate(rows["name"].tolist()):
        end = strtab.find(b"\0", start)
        name = strtab[start:end].decode("utf-8", "replace")
        if local[at]:
            row_of.setdefault(name, at)
        else:
            row_of[name] = at
    row_of.pop("", None)
    return row_of
