"""A kernel: its image file, its types, and the memory that runs it."""

from dataclasses import dataclass, field
from pathlib import Path

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.btf import Btf
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.elf_image import (
    ElfImage,
    find_build_id,
    find_module_file,
    read_module_file,
)
from nestscope.decoders.kernel.memory import LINEAR_START, KernelMemory
from nestscope.decoders.kernel.modules import ModuleReader
from nestscope.decoders.kernel.symbols import Symbol, SymbolTable, UnknownSymbolError
from nestscope.decoders.kernel.types import LayoutSource, Types
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import KernelInfo, Problem

KVM_MODULES = ("kvm", "kvm_hv")
_PMD_SHIFT = 21
_RADIX_PTE_BITS = (5, 9)  # RADIX_PTE_INDEX_SIZE of 64K and of 4K pages


class KernelError(NestscopeError):
    """The memory does not run this kernel image, or the kernel cannot be examined."""


@dataclass
class Kernel:
    """A running (or dumped) kernel. Addresses are kernel virtual addresses.

    `page_shift` is log2 of the base page size.
    """

    release: str
    page_shift: int
    byteorder: ByteOrder
    symbols: SymbolTable
    types: Types
    memory: KernelMemory
    module_symbols: dict[str, SymbolTable] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

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
                    self.module_symbols[name] = reader.symbols(modules[name])
                except NestscopeError as error:
                    here = modules[name].address
                    self.problems.append(Problem(f"modules.{name}", str(error), here))


def open_kernel(physical: Memory, vmlinux: Path, modules_dir: Path | None = None) -> Kernel:
    """Examine the kernel that runs in `physical`, with its image file.

    `modules_dir` is searched below for the KVM modules, whose BTF describes
    types that vmlinux does not.

    Raises:
        KernelFileError: if a file cannot be used.
        BtfError: if the type information is damaged.
        KernelError: if the memory runs another kernel, or one whose host does
            not use radix translation.
        UnreadableMemoryError: if the kernel's own image cannot be read.
        UnknownSymbolError: if the image lacks a symbol that every kernel has.
    """
    image = ElfImage.open(vmlinux)
    symbols = SymbolTable.of_image(image)
    release = _check_same_kernel(physical, image, symbols)
    pgd = symbols["swapper_pg_dir"].address - LINEAR_START
    memory = KernelMemory(physical, pgd, image.byteorder)
    kernel = Kernel(
        release=release,
        page_shift=_page_shift(memory, symbols),
        byteorder=image.byteorder,
        symbols=symbols,
        types=Types(_layouts(image, modules_dir)),
        memory=memory,
    )
    kernel.load_module_symbols()
    return kernel


def _check_same_kernel(physical: Memory, image: ElfImage, symbols: SymbolTable) -> str:
    """Return the release, after comparing the banner and the build id with the memory's.

    Raises:
        KernelError: naming both, if they differ.
    """
    symbol = symbols["linux_banner"]
    expected = image.read_at(symbol.address, symbol.size)
    found = physical.read(symbol.address - LINEAR_START, symbol.size)
    if found != expected:
        raise KernelError(
            f"the memory does not run {image.name}: it holds {_line(found)} where that kernel "
            f"has {_line(expected)}; give the vmlinux of the running kernel"
        )
    notes = image.section(".notes")
    build_id = image.build_id()
    if notes is not None and build_id is not None and notes.address >= LINEAR_START:
        data = physical.read(notes.address - LINEAR_START, notes.size)
        in_memory = find_build_id(data, image.byteorder)
        if in_memory is not None and in_memory != build_id:
            raise KernelError(
                f"the memory runs build {in_memory.hex()}, but {image.name} is build "
                f"{build_id.hex()}; give the vmlinux of the running kernel"
            )
    words = expected.split()
    if len(words) < 3 or words[:2] != [b"Linux", b"version"]:
        raise KernelError(f"{image.name} has no Linux banner but {_line(expected)}")
    return words[2].decode("utf-8", "replace")


def _line(banner: bytes) -> str:
    """Return the start of a banner, printable."""
    text = banner.split(b"\0")[0].decode("ascii", "replace").strip()
    return repr(text[:120]) if text.isprintable() and text else "no banner"


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


def _layouts(image: ElfImage, modules_dir: Path | None) -> list[LayoutSource]:
    """Return the sources of layouts: the modules' split BTF, then vmlinux's."""
    section = image.section(".BTF")
    if section is None:
        raise KernelError(
            f"{image.name} has no type information (BTF); give a kernel built with "
            "CONFIG_DEBUG_INFO_BTF"
        )
    base = Btf(image.contents(section), image.name)
    if modules_dir is None:
        return [base]
    layouts: list[LayoutSource] = []
    for name in KVM_MODULES:
        path = find_module_file(modules_dir, name)
        if path is None:
            continue
        module = ElfImage(read_module_file(path), str(path))
        types = module.section(".BTF")
        if types is None:
            continue
        # A module built outside the kernel's tree brings the base that its ids refer to.
        own_base = module.section(".BTF.base")
        under = Btf(module.contents(own_base), f"{path} (base)") if own_base else base
        layouts.append(Btf(module.contents(types), str(path), under))
    return [*layouts, base]
