"""ELF64 core dumps of a whole machine (QEMU's `dump-guest-memory`, vmcore).

The file's byte order is its own affair: QEMU writes the header in the byte
order that the processor takes interrupts in at that moment, so a dump of a
little-endian kernel may well be big-endian. Memory is never swapped.
"""

import io
from pathlib import Path

import numpy as np
from elftools.common.exceptions import ELFParseError
from elftools.common.utils import struct_parse
from elftools.elf.structs import ELFStructs

from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment, SourceFileError

ELF_MAGIC = b"\x7fELF"
_PT_LOAD = 1
_PN_XNUM = 0xFFFF  # the number of program headers is in section header 0
_PHDR = [
    ("type", "u4"),
    ("flags", "u4"),
    ("offset", "u8"),
    ("vaddr", "u8"),
    ("paddr", "u8"),
    ("filesz", "u8"),
    ("memsz", "u8"),
    ("align", "u8"),
]


class ElfCore(FileMemory):
    """Physical memory from the PT_LOAD segments of an ELF64 core, by `p_paddr`.

    Only what is in the file is memory: bytes between `p_filesz` and `p_memsz`
    were not dumped and cannot be read.
    """

    kind = "elf-core"

    def __init__(self, path: Path) -> None:
        """Map `path` and read its program headers.

        Raises:
            SourceFileError: if the file cannot be opened, or is not an ELF64
                core of a PowerPC64 machine with at least one PT_LOAD segment in it.
        """
        file = MappedFile(path)
        try:
            super().__init__(file, _load_segments(file))
            if not self.segments:
                raise SourceFileError(
                    f"{path} holds no memory: no PT_LOAD segment lies inside the file; "
                    "the dump is cut short, make it again"
                )
        except SourceFileError:
            self.__dict__.pop("_bytes", None)
            file.close()
            raise


def _load_segments(file: MappedFile) -> list[Segment]:
    """Return the PT_LOAD segments, in file order."""
    head = file.data[:64]
    if head[:4] != ELF_MAGIC or len(head) < 64:
        raise SourceFileError(f"{file.path} is not an ELF file, or is cut short in its header")
    if head[4] != 2 or head[5] not in (1, 2):
        raise SourceFileError(f"{file.path} is not an ELF64 file; give a dump of a ppc64 machine")
    structs = ELFStructs(little_endian=head[5] == 1, elfclass=64)
    structs.create_basic_structs()
    header = struct_parse(structs.Elf_Ehdr, io.BytesIO(head))
    if header["e_machine"] != "EM_PPC64":
        raise SourceFileError(
            f"{file.path} is an ELF file of machine {header['e_machine']}, not of a ppc64 machine"
        )
    if header["e_type"] != "ET_CORE":
        raise SourceFileError(
            f"{file.path} is an ELF file but not a core dump ({header['e_type']}); "
            "a kernel image is given with --vmlinux"
        )
    count = header["e_phnum"]
    if count == _PN_XNUM:
        # Not every field of QEMU's section headers is in the file's byte order,
        # but sh_info of the first one is.
        structs.create_advanced_structs(header["e_type"], header["e_machine"])
        section = io.BytesIO(file.data[header["e_shoff"] : header["e_shoff"] + 64])
        try:
            count = struct_parse(structs.Elf_Shdr, section)["sh_info"]
        except ELFParseError as error:
            raise SourceFileError(f"{file.path} is cut short in its section header") from error
    return _read_headers(file, header["e_phoff"], count, header["e_phentsize"], head[5] == 1)


def _read_headers(
    file: MappedFile, offset: int, count: int, entry_size: int, little: bool
) -> list[Segment]:
    """Read `count` program headers; those past the end of the file are not there."""
    row = np.dtype(_PHDR).newbyteorder("<" if little else ">")
    if entry_size != row.itemsize:
        raise SourceFileError(
            f"{file.path} has program headers of {entry_size} bytes instead of {row.itemsize}"
        )
    table = file.data[offset : offset + count * row.itemsize]
    rows = np.frombuffer(table, row, count=len(table) // row.itemsize)
    load = rows[rows["type"] == _PT_LOAD]
    sizes = np.minimum(load["filesz"], load["memsz"])
    return [
        Segment(*values)
        for values in zip(
            load["paddr"].tolist(), load["offset"].tolist(), sizes.tolist(), strict=True
        )
    ]
