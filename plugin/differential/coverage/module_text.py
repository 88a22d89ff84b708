"""The code of a module as its file has it: functions, and where control can arrive in them.

An *offset* here is a position in the unpacked `.ko` file. It is the same after
every boot, whatever the address at which the module is loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import prefix
from nestscope.decoders.kernel.elf_image import (
    ElfImage,
    KernelFileError,
    Section,
    find_module_file,
    read_module_file,
)
from nestscope.decoders.kernel.symbols import local_entry_offset

_SYM = [("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8")]
_SYM += [("size", "u8")]
_RELA = [("offset", "u8"), ("type", "u4"), ("symbol", "u4"), ("addend", "i8")]
_STT_FUNC = 2
_TEXT = ".text"
_JUMP_ENTRY = 16  # struct jump_entry: s32 code, s32 target, s64 key
_EX_ENTRY = 8  # struct exception_table_entry: s32 insn, s32 fixup


class ModuleTextError(NestscopeError):
    """A module's file does not say what is needed of its code."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function symbol: offset of its global entry, size in bytes, offset of its local entry.

    `name` is the symbol's whole name, `source_name` the function's in the source:
    the compiler appends `.isra.0`, `.constprop.0`, `.part.0` or `.cold`.
    """

    name: str
    section: str
    offset: int
    size: int
    local_entry: int

    @property
    def source_name(self) -> str:
        """The name without what the compiler appended."""
        return self.name.split(".", 1)[0]

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + self.size


class ModuleText:
    """The functions of one module's file.

    `functions` are all function symbols by name. `labels` are offsets at which
    control can arrive other than by a branch that is in the code: the targets of
    jump labels and the fixups of the exception table. `branches` are offsets of
    instructions that the kernel may turn into a branch: the sites of jump labels.
    `calls` are the relocated branches: offset of the instruction to the name and
    offset (None: in another module) of its target.
    """

    def __init__(self, image: ElfImage) -> None:
        """Read symbols and relocations.

        Raises:
            KernelFileError: if the file is cut short.
            ModuleTextError: if it has no symbol table.
        """
        self.image = image
        self.build_id = (image.build_id() or b"").hex()
        symtab = image.section(".symtab")
        if symtab is None or symtab.link >= len(image.sections):
            raise ModuleTextError(f"{image.name} has no symbols: give the module as it is shipped")
        self._order = prefix(image.byteorder)
        row = np.dtype(_SYM).newbyteorder(self._order)
        self._symbols = np.frombuffer(image.contents(symtab), row)
        self._names = image.contents(image.sections[symtab.link])
        self.functions = {function.name: function for function in self._functions()}
        self._at = {function.offset: function for function in self.functions.values()}
        self.calls = dict(self._calls())
        self.labels = frozenset(self._places("__jump_table", _JUMP_ENTRY, 4)) | frozenset(
            self._places("__ex_table", _EX_ENTRY, 4)
        )
        self.branches = frozenset(self._places("__jump_table", _JUMP_ENTRY, 0))

    @classmethod
    def of_module(cls, modules_dir: Path, name: str) -> "ModuleText":
        """Read the file of module `name` below `modules_dir`.

        Raises:
            ModuleTextError: if there is none.
            KernelFileError: if it cannot be read.
        """
        path = find_module_file(modules_dir, name)
        if path is None:
            raise ModuleTextError(f"module {name} is not below {modules_dir}: give --modules")
        return cls(ElfImage(read_module_file(path), str(path)))

    def code(self, function: Function) -> bytes:
        """Return the instructions of a function, from its local entry."""
        return self.image.data[function.local_entry : function.end]

    def containing(self, offset: int) -> Function | None:
        """Return the function that an offset is in, or None."""
        found = [f for f in self.functions.values() if f.offset <= offset < f.end]
        return found[0] if found else None

    def _name(self, start: int) -> str:
        return self._names[start : self._names.find(b"\0", start)].decode("utf-8", "replace")

    def _section(self, index: int) -> Section | None:
        sections = self.image.sections
        return sections[index] if 0 < index < len(sections) else None

    def _functions(self) -> Iterator[Function]:
        for name, info, other, shndx, value, size in self._symbols.tolist():
            section = self._section(shndx)
            if info & 0xF != _STT_FUNC or not size or section is None:
                continue
            if not (section.in_file and section.name.startswith(_TEXT)):
                continue
            if value + size > section.size or section.offset + section.size > len(self.image.data):
                raise KernelFileError(f"a function of {self.image.name} is outside its section")
            start = section.offset + value
            entry = start + local_entry_offset(other)
            yield Function(self._name(name), section.name, start, size, entry)

    def _relocations(self, section: str) -> Iterator[tuple[int, str, int | None]]:
        """Yield each relocation of `section`: place in it, symbol's name, offset it points to.

        The offset is None where the symbol is not in the file.
        """
        table = self.image.section(f".rela{section}")
        if table is None:
            return
        rows = np.frombuffer(
            self.image.contents(table), np.dtype(_RELA).newbyteorder(self._order)
        ).tolist()
        for place, _, number, addend in rows:
            if number >= len(self._symbols):
                raise KernelFileError(f"a relocation of {self.image.name} has no symbol {number}")
            name, _, _, shndx, value, _ = self._symbols[number].item()
            target = self._section(shndx)
            offset = None if target is None else target.offset + value + addend
            yield place, self._name(name), offset

    def _calls(self) -> Iterator[tuple[int, tuple[str, int | None]]]:
        for section in self.image.sections:
            if section.name.startswith(_TEXT) and section.in_file:
                for place, name, offset in self._relocations(section.name):
                    into = None if offset is None else self._at.get(offset)
                    yield section.offset + place, (into.name if into else name, offset)

    def _places(self, section: str, size: int, member: int) -> Iterator[int]:
        """Yield what the relative pointers at `member` of each entry of a table point to."""
        for place, _, offset in self._relocations(section):
            if place % size == member and offset is not None:
                yield offset
