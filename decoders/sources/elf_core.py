"""ELF64 core dumps of a whole machine (QEMU's `dump-guest-memory`, vmcore).

The file's byte order is its own affair: QEMU writes the header in the byte
order that the processor takes interrupts in at that moment, so a dump of a
little-endian kernel may well be big-endian. Memory is never swapped.
"""

import io
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from elftools.common.exceptions import ELFParseError
from elftools.common.utils import struct_parse
from elftools.elf.structs import ELFStructs
from numpy.typing import NDArray

from nestscope.decoders.sources.elf_notes import Note, iter_notes
from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment, SourceFileError

ELF_MAGIC = b"\x7fELF"
MAX_SEGMENTS = 1 << 20
_MAX_NOTE_BYTES = 16 << 20
_PT_LOAD = 1
_PT_NOTE = 4
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
    were not dumped and cannot be read. `notes` are those of the PT_NOTE segments,
    `order` is the byte order of the ELF headers (">" or "<").
    """

    kind = "elf-core"

    def __init__(self, source: Path | MappedFile) -> None:
        """Map the file and read its program headers. A `MappedFile` is taken over.

        Raises:
            SourceFileError: if the file cannot be opened, or is not an ELF64
                core of a PowerPC64 machine with at least one PT_LOAD segment in it.
        """
        file = source if isinstance(source, MappedFile) else MappedFile(source)
        try:
            headers = _headers(file)
            self.order = headers.order
            self.notes = _notes(file, headers)
            super().__init__(file, headers.segments(_PT_LOAD))
            if not self.segments:
                raise SourceFileError(
                    f"{file.path} holds no memory: no PT_LOAD segment lies inside the file; "
                    "the dump is cut short, make it again"
                )
        except SourceFileError:
            self.__dict__.pop("_bytes", None)
            file.close()
            raise


class _Headers(NamedTuple):
    """The program headers, and the byte order of all headers."""

    order: Literal["<", ">"]
    rows: NDArray[np.void]

    def segments(self, kind: int) -> list[Segment]:
        """Return the segments of one type, in file order."""
        rows = self.rows[self.rows["type"] == kind]
        sizes = np.minimum(rows["filesz"], rows["memsz"]) if kind == _PT_LOAD else rows["filesz"]
        columns = (rows["paddr"].tolist(), rows["offset"].tolist(), sizes.tolist())
        return [Segment(*values) for values in zip(*columns, strict=True)]


def _headers(file: MappedFile) -> _Headers:
    """Read the ELF header and the program headers."""
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
    order: Literal["<", ">"] = "<" if head[5] == 1 else ">"
    return _read_headers(file, header["e_phoff"], count, header["e_phentsize"], order)


def _read_headers(
    file: MappedFile, offset: int, count: int, entry_size: int, order: Literal["<", ">"]
) -> _Headers:
    """Read `count` program headers; those past the end of the file are not there."""
    row = np.dtype(_PHDR).newbyteorder(order)
    if entry_size != row.itemsize:
        raise SourceFileError(
            f"{file.path} has program headers of {entry_size} bytes instead of {row.itemsize}"
        )
    if count > MAX_SEGMENTS:
        raise SourceFileError(
            f"{file.path} claims {count} program headers; more than {MAX_SEGMENTS} are not read"
        )
    table = file.data[offset : offset + count * row.itemsize]
    return _Headers(order, np.frombuffer(table, row, count=len(table) // row.itemsize))


def _notes(file: MappedFile, headers: _Headers) -> list[Note]:
    """Return the notes of all PT_NOTE segments, as far as they are in the file."""
    notes: list[Note] = []
    left = _MAX_NOTE_BYTES
    for _, offset, size in headers.segments(_PT_NOTE):
        if left <= 0:
            break
        notes += iter_notes(file.data[offset : offset + min(size, left)], headers.order)
        left -= size
    return notes
