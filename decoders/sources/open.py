"""Open a source of memory, recognised by its content."""

from pathlib import Path

from nestscope.decoders.sources.elf_core import ELF_MAGIC, ElfCore
from nestscope.decoders.sources.mapped import FileMemory, MappedFile, SourceFileError
from nestscope.decoders.sources.ram import RamFile
from nestscope.decoders.sources.raw import RawImage
from nestscope.decoders.state import Source

RAM_PREFIX = "ram:"

# Formats that would otherwise pass for a raw image of RAM.
_KNOWN_BUT_CLOSED = {
    b"KDUMP   ": "a kdump-compressed dump",
    b"DISKDUMP": "a diskdump",
    b"makedumpfile": "a flattened makedumpfile dump",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}


def open_source(name: str | Path) -> tuple[FileMemory, Source]:
    """Open `ram:FILE` (QEMU's shared RAM file) or a file, recognised by content.

    A file that starts like no known format is a raw image of RAM.

    Returns:
        the physical memory, to be closed by the caller, and what it is.

    Raises:
        SourceFileError: if the file cannot be opened or its format cannot be read.
    """
    text = str(name)
    memory: FileMemory
    if text.startswith(RAM_PREFIX):
        memory = RamFile(Path(text.removeprefix(RAM_PREFIX)))
    else:
        memory = _open_file(Path(text))
    return memory, Source(memory.kind, memory.name)


def _open_file(path: Path) -> FileMemory:
    file = MappedFile(path)
    start = file.data[:16]
    file.close()
    if start.startswith(ELF_MAGIC):
        return ElfCore(path)
    for magic, what in _KNOWN_BUT_CLOSED.items():
        if start.startswith(magic):
            raise SourceFileError(
                f"{path} is {what}, which cannot be opened; give an ELF dump or a raw image"
            )
    return RawImage(path)
