"""Open a source of memory, recognised by its content."""

from pathlib import Path

from nestscope.decoders.sources.elf_core import ELF_MAGIC, ElfCore
from nestscope.decoders.sources.flattened import file_order, is_flattened
from nestscope.decoders.sources.joined import JoinedMemory
from nestscope.decoders.sources.kdump import KdumpFile
from nestscope.decoders.sources.kdump_header import SIGNATURE
from nestscope.decoders.sources.libkdumpfile import LibKdumpFile
from nestscope.decoders.sources.mapped import MappedFile, SourceFileError
from nestscope.decoders.sources.packed import packing, unpacked
from nestscope.decoders.sources.ram import RamFile
from nestscope.decoders.sources.raw import RawImage
from nestscope.decoders.sources.source_memory import SourceMemory
from nestscope.decoders.state import Source

RAM_PREFIX = "ram:"
KDUMPFILE_PREFIX = "kdumpfile:"
MAX_PARTS = 256

# Formats that would otherwise pass for a raw image of RAM.
_KNOWN_BUT_CLOSED = {b"DISKDUMP": "a diskdump"}


def open_source(name: str | Path) -> tuple[SourceMemory, Source]:
    """Open a file, the parts of a split dump, or `ram:FILE` (QEMU's shared RAM file).

    `kdumpfile:FILE` has libkdumpfile unpack the pages of a kdump-compressed dump.

    A file is recognised by its content: ELF core, kdump-compressed (flattened or
    not), any of these packed with xz, gzip or zstd, else a raw image of RAM.
    Parts are the files of a folder, or names with commas between them; each must
    be an ELF core or a kdump-compressed dump (`makedumpfile --split`). Pieces
    cut by size (`split -b`) must be joined first.

    Returns:
        the physical memory, to be closed by the caller, and what it is.

    Raises:
        SourceFileError: if a file cannot be opened or its format cannot be read.
    """
    text = str(name)
    if not text.strip():  # as a path it would be the current folder
        raise SourceFileError(
            "no source is named: give a dump file, the folder with the parts of one, or ram:FILE"
        )
    memory: SourceMemory
    if text.startswith(RAM_PREFIX):
        memory = RamFile(Path(text.removeprefix(RAM_PREFIX)))
    elif text.startswith(KDUMPFILE_PREFIX):
        memory = LibKdumpFile(Path(text.removeprefix(KDUMPFILE_PREFIX)))
    elif (parts := _parts(text)) is not None:
        memory = _open_parts(parts, text)
    else:
        memory = _open_file(Path(text))
    return memory, Source(memory.kind, memory.name)


def _parts(text: str) -> list[Path] | None:
    """Return the files of a split dump, or None if `text` names one file."""
    path = Path(text)
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file())
    if "," in text and not path.exists():
        return [Path(part) for part in text.split(",")]
    return None


def _open_parts(paths: list[Path], text: str) -> SourceMemory:
    if not 0 < len(paths) <= MAX_PARTS:
        raise SourceFileError(
            f"{text} has {len(paths)} files; give a folder with 1 to {MAX_PARTS} parts of a dump"
        )
    parts: list[SourceMemory] = []
    try:
        for path in paths:
            part = _open_file(path)
            parts.append(part)
            if isinstance(part, RawImage):
                raise SourceFileError(
                    f"{path} is no part of a split dump: it has no header that says which "
                    "memory it holds; pieces cut by size must be joined with cat first"
                )
    except BaseException:
        for part in parts:
            part.close()
        raise
    return JoinedMemory(parts, Path(text).name)


def _open_file(path: Path) -> SourceMemory:
    return open_contents(MappedFile(path))


def open_contents(file: MappedFile) -> SourceMemory:
    """Open `file`, which is taken over, as what it starts like (see `open_source`).

    Raises:
        SourceFileError: if its format cannot be read.
    """
    if packing(file) is not None:
        file = unpacked(file)
        if packing(file) is not None:
            file.close()
            raise SourceFileError(f"{file.path} is packed twice; unpack it once")
        if not file.size:
            raise SourceFileError(f"{file.path} is empty when unpacked; give a file of memory")
    start = file.data[:16]
    if start.startswith(ELF_MAGIC):
        return ElfCore(file)
    if start.startswith(SIGNATURE) or is_flattened(file):
        return KdumpFile(file_order(file))
    for magic, what in _KNOWN_BUT_CLOSED.items():
        if start.startswith(magic):
            file.close()
            raise SourceFileError(
                f"{file.path} is {what}, which cannot be opened; give an ELF dump or a raw image"
            )
    return RawImage(file)
