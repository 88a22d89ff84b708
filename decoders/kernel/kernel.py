"""A kernel: what is known of it, and the memory that runs it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.btf import Btf
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.elf_image import find_build_id
from nestscope.decoders.kernel.files import KVM_MODULES, knowledge_of_files
from nestscope.decoders.kernel.in_memory import knowledge_in_memory, module_btf
from nestscope.decoders.kernel.knowledge import KernelError, Knowledge, check_against, in_place
from nestscope.decoders.kernel.memory import LINEAR_START, KernelMemory
from nestscope.decoders.kernel.modules import Module, ModuleReader
from nestscope.decoders.kernel.profile import Profile, ProfileError
from nestscope.decoders.kernel.shipped import stored_profile, stored_profiles
from nestscope.decoders.kernel.symbols import Symbol, SymbolTable, UnknownSymbolError
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import KernelInfo, Problem

__all__ = ["KVM_MODULES", "Kernel", "KernelError", "kernel_of", "open_kernel"]

_PMD_SHIFT = 21
_RADIX_PTE_BITS = (5, 9)  # RADIX_PTE_INDEX_SIZE of 64K and of 4K pages
_BUILD_ID_SECTION = ".note.gnu.build-id"
_NOTE_BYTES = 64


@dataclass
class Kernel:
    """A running (or dumped) kernel. Addresses are kernel virtual addresses.

    `page_shift` is log2 of the base page size. `known` is where symbols and
    types come from, for whoever wants to store them (`recorded.make_profile`).
    """

    release: str
    page_shift: int
    byteorder: ByteOrder
    symbols: SymbolTable
    types: Types
    memory: KernelMemory
    module_symbols: dict[str, SymbolTable] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    known: Knowledge | None = None
    # The kernel's own BTF, if the modules' types are to be read from memory as well.
    base_btf: Btf | None = None
    _typed: set[int] = field(default_factory=set)

    @property
    def info(self) -> KernelInfo:
        """The kernel as the State names it."""
        return KernelInfo(self.release, self.page_shift)

    def symbol(self, name: str) -> Symbol:
        """Return a symbol of vmlinux or of a KVM module.

        Raises:
            UnknownSymbolError: if none has it.
        """
        for table in (self.symbols, *self.module_symbols.values()):
            found = table.get(name)
            if found is not None:
                return found
        loaded = ", ".join(self.module_symbols) or "none"
        raise UnknownSymbolError(
            f"no symbol {name} in the kernel or its KVM modules (loaded: {loaded}); load kvm first"
        )

    def load_module_symbols(self) -> None:
        """Read the KVM modules' symbols again: a module may have been loaded since.

        What cannot be read is in `problems`.
        """
        self.memory.forget()
        self.module_symbols = {}
        try:
            reader = ModuleReader(self.types, self.symbols["modules"].address, self.memory)
            modules, self.problems = reader.read()
        except NestscopeError as error:
            self.problems = [Problem("modules", str(error))]
            return
        for name in KVM_MODULES:
            if name in modules:
                try:
                    self.module_symbols[name] = self._symbols_of(modules[name], reader)
                except NestscopeError as error:
                    here = modules[name].address
                    self.problems.append(Problem(f"modules.{name}", str(error), here))
        self._load_module_types({modules[name].address for name in KVM_MODULES if name in modules})

    def _symbols_of(self, module: Module, reader: ModuleReader) -> SymbolTable:
        """Return the symbols the kernel keeps of a module, and the few more that are known."""
        table = reader.symbols(module)
        placed = self.known.module_symbols.get(module.name, {}) if self.known else {}
        missing = {name: where for name, where in placed.items() if name not in table}
        if missing:
            sections = reader.sections(module)
            for name, (section, offset, size) in missing.items():
                if section in sections:
                    address = sections[section] + offset
                    table.add([Symbol(name, address, size, address)])
        return table

    def _load_module_types(self, modules: set[int]) -> None:
        """Add the types of KVM modules that the kernel holds and that are not known yet."""
        head = self.symbols.get("btf_modules")
        if self.base_btf is None or head is None or modules <= self._typed:
            return
        try:
            for module, btf in module_btf(self.types, self.memory, head.address, self.base_btf):
                if module in modules - self._typed:
                    self.types.add(btf)
                    self._typed.add(module)
        except NestscopeError as error:
            self.problems.append(Problem("modules", f"their types: {error}", head.address))

    def check_module_files(self) -> None:
        """Compare the build ids of the modules' files with those of the loaded modules.

        Raises:
            KernelError: naming both, if they differ.
        """
        expected = self.known.module_build_ids if self.known else {}
        if not expected:
            return
        try:
            reader = ModuleReader(self.types, self.symbols["modules"].address, self.memory)
            modules, _ = reader.read()
            loaded = {
                name: self._build_id(modules[name], reader) for name in expected if name in modules
            }
        except NestscopeError:
            return  # a damaged list is among the problems; without it nothing can be compared
        for name, found in loaded.items():
            if found is not None and found != expected[name]:
                raise KernelError(
                    f"the memory runs module {name} of build {found.hex()}, but the file is build "
                    f"{expected[name].hex()}; give the folder with the running kernel's modules"
                )

    def _build_id(self, module: Module, reader: ModuleReader) -> bytes | None:
        address = reader.sections(module).get(_BUILD_ID_SECTION)
        if address is None:
            return None
        return find_build_id(self.memory.read(address, _NOTE_BYTES), self.byteorder)


def open_kernel(
    physical: Memory,
    vmlinux: Path | None = None,
    modules_dir: Path | None = None,
    *,
    debug_dir: Path | None = None,
    profile: Profile | None = None,
    shipped: bool = True,
) -> Kernel:
    """Examine the kernel that runs in `physical`.

    With `vmlinux`, symbols and types come from files: `modules_dir` is searched
    below for the KVM modules, `debug_dir` for separate debug files. `profile`
    gives the types, and without `vmlinux` the symbols. Without either, a stored
    profile (`shipped.py`) is used if there is one of this build (unless `shipped`
    is False), else the memory itself says everything.

    Raises:
        KernelFileError: if a file cannot be used.
        BtfError, DwarfError, ProfileError: if the type information is damaged.
        KernelError: if the memory runs another kernel, or one whose host does
            not use radix translation, or nothing describes its types.
        UnreadableMemoryError: if the kernel's own image cannot be read.
        UnknownSymbolError: if a symbol is missing that every kernel has.
    """
    if vmlinux is not None:
        known = _of_files(knowledge_of_files(vmlinux, modules_dir, debug_dir), profile, shipped)
        known = check_against(physical, known)
    elif profile is not None:
        known = check_against(physical, Knowledge.of_profile(profile, "the profile's kernel"))
    else:
        known = (_of_shipped(physical) if shipped else None) or knowledge_in_memory(physical)
    return kernel_of(physical, known)


def kernel_of(physical: Memory, known: Knowledge) -> Kernel:
    """Return the kernel that is `known` already, as it runs in `physical`.

    Raises:
        KernelError: if a module is of another build, or the host does not use radix
            translation.
        UnreadableMemoryError: if the kernel's own image cannot be read.
        UnknownSymbolError: if a symbol is missing that every kernel has.
    """
    pgd = known.symbols["swapper_pg_dir"].address - LINEAR_START
    memory = KernelMemory(physical, pgd, known.byteorder)
    base = known.layouts[-1]
    kernel = Kernel(
        release=known.release,
        page_shift=_page_shift(memory, known.symbols),
        byteorder=known.byteorder,
        symbols=known.symbols,
        types=Types(known.layouts),
        memory=memory,
        known=known,
        base_btf=base if isinstance(base, Btf) and len(known.layouts) == 1 else None,
    )
    kernel.load_module_symbols()
    kernel.check_module_files()
    return kernel


def _of_files(known: Knowledge, profile: Profile | None, shipped: bool) -> Knowledge:
    """Return what files say, with the types of a profile if one is given or needed.

    Raises:
        ProfileError: if the given profile is of another build; both are named.
        KernelError: if nothing describes the types.
    """
    if profile is None and not known.layouts and shipped and known.build_id is not None:
        profile = stored_profile(known.build_id)
    if profile is not None:
        if profile.build_id != known.build_id:
            own = known.build_id.hex() if known.build_id else "none"
            raise ProfileError(
                f"the profile is of build {profile.build_id.hex()} ({profile.release}), but "
                f"{known.name} is build {own}; give the profile of that kernel"
            )
        symbols = {**profile.module_symbols, **known.module_symbols}
        return replace(known, layouts=(profile,), module_symbols=symbols)
    if not known.layouts:
        raise KernelError(
            f"{known.name} has no type information (BTF or DWARF); give a kernel built with "
            "CONFIG_DEBUG_INFO_BTF, its debug files (--debug), or a profile (--profile)"
        )
    return known


def _of_shipped(physical: Memory) -> Knowledge | None:
    """Return what a stored profile says of the kernel in memory, or None."""
    for profile in stored_profiles():
        if in_place(physical, profile.banner, profile.symbols["linux_banner"].address):
            known = Knowledge.of_profile(profile, f"the stored profile of {profile.release}")
            try:
                return check_against(physical, known)
            except NestscopeError:
                continue  # the same text, but another build: the memory itself knows better
    return None


def _page_shift(memory: KernelMemory, symbols: SymbolTable) -> int:
    """Return log2 of the base page size, from the running kernel.

    radix__early_init_mmu() stores RADIX_PTE_INDEX_SIZE in `__pte_index_size`;
    a PMD entry covers 2 MiB in both geometries.

    Raises:
        KernelError: if the host does not use radix translation.
    """
    symbol = symbols["__pte_index_size"]
    try:
        bits = memory.u64(symbol.address)
    except UnreadableMemoryError as error:
        raise KernelError(f"the kernel's page size cannot be read: {error}") from error
    if bits not in _RADIX_PTE_BITS:
        raise KernelError(
            f"the host does not use radix translation (__pte_index_size is {bits}); "
            "without it there is no nested rmap"
        )
    return _PMD_SHIFT - bits
