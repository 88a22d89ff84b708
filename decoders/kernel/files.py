"""What a kernel's files say: vmlinux, its modules, separate debug files."""

import re
from collections.abc import Iterable
from pathlib import Path

from nestscope.decoders.kernel.btf import Btf
from nestscope.decoders.kernel.dwarf import Dwarf
from nestscope.decoders.kernel.elf_image import (
    ElfImage,
    KernelFileError,
    build_id_place,
    find_module_file,
    read_module_file,
)
from nestscope.decoders.kernel.knowledge import NEEDED_MODULE_SYMBOLS, KernelError, Knowledge, line
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.symbols import Placed, SymbolTable, placed_symbols
from nestscope.decoders.kernel.types import LayoutSource

KVM_MODULES = ("kvm", "kvm_hv")
_DEBUG_SECTION = ".debug_info"
_MAX_DEBUG_FILES = 100_000
_PACKED = re.compile(r"\.(xz|gz|zst)$")


def knowledge_of_files(
    vmlinux: Path,
    modules_dir: Path | None = None,
    debug_dir: Path | None = None,
    *,
    without_types: bool = False,
) -> Knowledge:
    """Return what the files say. `layouts` is empty if none has type information.

    `without_types` leaves type information unread: somebody else has it.

    The KVM modules are searched for below `modules_dir`; debug files below
    `debug_dir`, by build id (`.build-id/xx/yyyy.debug`) or by name.

    Raises:
        KernelFileError: if a file cannot be used.
        BtfError, DwarfError: if type information is damaged.
        KernelError: if vmlinux has no banner, or a debug file is of another build.
        UnknownSymbolError: if it lacks the symbol `linux_banner`.
    """
    image = ElfImage.open(vmlinux)
    symbols = SymbolTable.of_image(image)
    symbol = symbols["linux_banner"]
    banner = image.read_at(symbol.address, symbol.size)
    words = banner.split()
    if len(words) < 3 or words[:2] != [b"Linux", b"version"]:
        raise KernelError(f"{image.name} has no Linux banner but {line(banner)}")
    modules = dict(_modules(modules_dir)) if modules_dir is not None else {}
    placed: dict[str, dict[str, Placed]] = {}
    for name, module in modules.items():
        found = placed_symbols(module)
        needed = NEEDED_MODULE_SYMBOLS.get(name, ())
        placed[name] = {key: found[key] for key in needed if key in found}
    build_ids = {name: module.build_id() for name, module in modules.items()}
    return Knowledge(
        name=image.name,
        release=words[2].decode("utf-8", "replace"),
        byteorder=image.byteorder,
        banner=banner,
        build_id=image.build_id(),
        build_id_note=_note_address(image),
        symbols=symbols,
        layouts=() if without_types else tuple(_layouts(image, modules, debug_dir)),
        module_symbols=placed,
        module_build_ids={name: found for name, found in build_ids.items() if found is not None},
    )


def _modules(modules_dir: Path) -> Iterable[tuple[str, ElfImage]]:
    for name in KVM_MODULES:
        path = find_module_file(modules_dir, name)
        if path is not None:
            yield name, ElfImage(read_module_file(path), str(path))


def _note_address(image: ElfImage) -> int | None:
    """Return where the kernel has the note with its build id, among others in `.notes`."""
    section = image.section(".notes")
    if section is None or section.address < LINEAR_START:
        return None
    place = build_id_place(image.contents(section), image.byteorder)
    return None if place is None else section.address + place


def _layouts(
    image: ElfImage, modules: dict[str, ElfImage], debug_dir: Path | None
) -> Iterable[LayoutSource]:
    """Yield the sources of layouts: the modules', then vmlinux's; BTF before DWARF."""
    section = image.section(".BTF")
    base = Btf(image.contents(section), image.name) if section is not None else None
    for name, module in modules.items():
        types = module.section(".BTF")
        # A module built outside the kernel's tree brings the base that its ids refer to.
        own_base = module.section(".BTF.base")
        under = Btf(module.contents(own_base), f"{module.name} (base)") if own_base else base
        if types is not None and under is not None:
            yield Btf(module.contents(types), module.name, under)
        else:
            yield from _dwarf(module, f"{name}.ko", debug_dir)
    if base is not None:
        yield base
    else:
        yield from _dwarf(image, "vmlinux", debug_dir)


def _dwarf(image: ElfImage, name: str, debug_dir: Path | None) -> Iterable[LayoutSource]:
    """Yield the DWARF of `image` itself, or of its separate debug file."""
    if image.section(_DEBUG_SECTION) is not None:
        yield Dwarf(image)
    elif debug_dir is not None:
        found = _debug_file(image, name, debug_dir)
        if found is not None:
            yield Dwarf(found)


def _debug_file(image: ElfImage, name: str, debug_dir: Path) -> ElfImage | None:
    """Return the separate debug file of `image`, or None.

    Raises:
        KernelError: if there is one of that name, but of another build only.
    """
    build_id = image.build_id()
    others: list[str] = []
    for path in _debug_paths(build_id, name, debug_dir):
        try:
            packed = path.suffix in (".xz", ".gz", ".zst")
            candidate = (
                ElfImage(read_module_file(path), str(path)) if packed else ElfImage.open(path)
            )
        except KernelFileError:
            continue
        if candidate.section(_DEBUG_SECTION) is None:
            continue
        found = candidate.build_id()
        if build_id is None or found == build_id:
            return candidate
        others.append(f"{path} is build {found.hex() if found else '(none)'}")
    if others:
        raise KernelError(
            f"no debug file below {debug_dir} is of {image.name}, which is build "
            f"{build_id.hex() if build_id else '(none)'}: {others[0]}; give its own debug files"
        )
    return None


def _debug_paths(build_id: bytes | None, name: str, debug_dir: Path) -> Iterable[Path]:
    """Yield the files that may be it, the surest first."""
    if build_id:
        text = build_id.hex()
        inside = Path(".build-id", text[:2], f"{text[2:]}.debug")
        for root in (debug_dir, debug_dir / "usr/lib/debug"):
            if (root / inside).is_file():
                yield root / inside
    stem = name.removesuffix(".ko")
    wanted = {stem.replace("-", "_"), f"{stem.replace('-', '_')}.ko"}
    seen: set[Path] = set()
    for number, path in enumerate(debug_dir.rglob("*")):
        if number >= _MAX_DEBUG_FILES:
            return
        plain = _PACKED.sub("", path.name).removesuffix(".debug").replace("-", "_")
        # vmlinux-RELEASE is how distributions name it below boot/.
        if plain in wanted or (stem == "vmlinux" and path.name.startswith("vmlinux-")):
            real = path.resolve()
            if real not in seen and real.is_file():
                seen.add(real)
                yield path
