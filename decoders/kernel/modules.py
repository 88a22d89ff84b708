"""The modules that a kernel has loaded, from its own list in memory.

The list is `modules`, linked through `struct module.list`. Each module keeps a
symbol table at load addresses (`core_kallsyms`, kernel/module/kallsyms.c), so
that no file is needed for symbols.
"""

from dataclasses import dataclass

import numpy as np

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.lists import ListError, list_entries
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.record import Record
from nestscope.decoders.kernel.symbols import SYM_SIZE, SymbolTable
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.state import Problem

MAX_MODULES = 4096
MAX_SYMBOLS = 1 << 20
MAX_STRTAB = 64 << 20
MAX_SECTIONS = 4096
MAX_NAME = 512  # KSYM_NAME_LEN


class ModuleError(NestscopeError):
    """A module's own description in memory is damaged."""


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded module: address of its `struct module`, name, start of its text (None: unknown)."""

    address: int
    name: str
    base: int | None


class ModuleReader:
    """Reads the modules of one kernel; the layouts are looked up once."""

    def __init__(self, types: Types, list_head: int, memory: KernelMemory) -> None:
        """`list_head` is the address of the symbol `modules`.

        Raises:
            UnknownTypeError: if there is no layout of `struct module`.
        """
        self._memory = memory
        self._head = list_head
        self._link = types.offset("module", "list")
        name = types.member("module", "name")
        self._name_at, self._name_size = name.offset, name.size
        # One allocation for each kind of memory since ac3b43283923
        # ("module: replace module_layout with module_memory").
        base = types.first("module", "mem[0].base", "core_layout.base", "module_core")
        self._base = types.offset("module", base) if base else None
        table = types.first("module", "core_kallsyms")
        self._kallsyms = (
            Record(
                types,
                "module",
                [f"{table}.symtab", f"{table}.num_symtab", f"{table}.strtab"],
                memory.byteorder,
            )
            if table
            else None
        )
        self._sections = _SectionReader.of(types, memory)

    def read(self) -> tuple[dict[str, Module], list[Problem]]:
        """Return the loaded modules by name, and what is wrong with the list."""
        modules: dict[str, Module] = {}
        try:
            for address in list_entries(self._memory, self._head, self._link, MAX_MODULES):
                module = self._module(address)
                modules[module.name] = module
        except ListError as error:
            return modules, [Problem("modules", str(error), error.address)]
        except UnreadableMemoryError as error:
            return modules, [Problem("modules", str(error), error.address)]
        return modules, []

    def _module(self, address: int) -> Module:
        raw = self._memory.read(address + self._name_at, self._name_size)
        base = None if self._base is None else self._memory.u64(address + self._base)
        return Module(address, raw.split(b"\0")[0].decode("utf-8", "replace"), base)

    def sections(self, module: Module) -> dict[str, int]:
        """Return where each section of the module is loaded, by name.

        Raises:
            ModuleError: if the kernel does not keep them, or the table is damaged.
            UnreadableMemoryError: if it cannot be read.
        """
        if self._sections is None:
            raise ModuleError(
                f"where the sections of module {module.name} are is not known: there is no "
                "layout of struct module_sect_attrs"
            )
        return self._sections.read(module)

    def symbols(self, module: Module) -> SymbolTable:
        """Return the module's symbols at their load addresses.

        Raises:
            ModuleError: if the kernel keeps no such table, or it is damaged.
            UnreadableMemoryError: if it cannot be read.
        """
        if self._kallsyms is None:
            raise ModuleError(
                f"the kernel keeps no symbols of module {module.name}: it was built without "
                "CONFIG_KALLSYMS"
            )
        symtab, count, strtab = self._kallsyms.read_numbers(self._memory, module.address)
        if count > MAX_SYMBOLS:
            raise ModuleError(f"module {module.name} claims {count} symbols at {symtab:#x}")
        table = self._memory.read(symtab, count * SYM_SIZE)
        order = "<u4" if self._memory.byteorder == "little" else ">u4"
        names = np.frombuffer(table, order)[:: SYM_SIZE // 4]
        last = int(names.max()) if count else 0
        if last > MAX_STRTAB:
            raise ModuleError(f"a symbol of module {module.name} claims its name at {last:#x}")
        # The last name ends the string table; its own length is not written down.
        strings = self._memory.read(strtab, last)
        strings += self._memory.cstring(strtab + last, MAX_NAME) + b"\0"
        return SymbolTable(table, strings, self._memory.byteorder)


class _SectionReader:
    """Reads `struct module_sect_attrs`, from which sysfs shows a module's sections."""

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        self._memory = memory
        order = memory.byteorder
        self._pointer = Record(types, "module", ["sect_attrs"], order)
        self._count = Record(types, "module_sect_attrs", ["nsections"], order)
        self._first = types.offset("module_sect_attrs", "attrs")
        self._row = Record(types, "module_sect_attr", ["battr.attr.name", "address"], order)

    @classmethod
    def of(cls, types: Types, memory: KernelMemory) -> "_SectionReader | None":
        """Return a reader, or None if the kernel keeps the sections in another form."""
        try:
            return cls(types, memory)
        except NestscopeError:
            return None

    def read(self, module: Module) -> dict[str, int]:
        (table,) = self._pointer.read_numbers(self._memory, module.address)
        if not table:
            raise ModuleError(f"the kernel keeps no sections of module {module.name}")
        (count,) = self._count.read_numbers(self._memory, table)
        if count > MAX_SECTIONS:
            raise ModuleError(f"module {module.name} claims {count} sections at {table:#x}")
        found: dict[str, int] = {}
        for number in range(count):
            row = table + self._first + number * self._row.size
            name, address = self._row.read_numbers(self._memory, row)
            found[self._memory.cstring(name, MAX_NAME).decode("utf-8", "replace")] = address
        return found
