"""ELF files of a kernel: vmlinux, and modules as they are installed.

A module file may be compressed; `read_module_file` undoes that.
"""

import gzip
import importlib
import lzma
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder

MAX_MODULE_BYTES = 256 << 20
MAX_IMAGE_BYTES = 2 << 30
NT_GNU_BUILD_ID = 3
_SHDR_SIZE = 64

# What pyelftools lets through on damaged files, by the field that is bad.
DAMAGE = (
    ELFError,
    DWARFError,
    ConstructError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
)


class KernelFileError(NestscopeError):
    """A kernel image or module file cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section: link address (0 in modules), where its bytes are in the file, its link."""

    name: str
    address: int
    offset: int
    size: int
    in_file: bool
    link: int


class ElfImage:
    """An ELF64 file held in memory.

    `byteorder` is the kernel's own ("little" or "big").
    """

    def __init__(self, data: bytes, name: str) -> None:
        """Read the section headers of `data`; `name` is for messages.

        Raises:
            KernelFileError: if it is not an ELF64 file for PowerPC64, or is damaged.
        """
        self.data = data
        self.name = name
        try:
            elf = ELFFile(BytesIO(data))
            if elf.elfclass != 64 or elf["e_machine"] != "EM_PPC64":
                raise KernelFileError(f"{name} is not an ELF64 file for PowerPC64")
            # Otherwise a damaged header could ask for any number of sections.
            if elf["e_shentsize"] != _SHDR_SIZE or elf.num_sections() > len(data) // _SHDR_SIZE:
                raise KernelFileError(f"{name} has a damaged table of sections")
            self.byteorder: ByteOrder = "little" if elf.little_endian else "big"
            self.sections = [
                Section(
                    section.name,
                    section["sh_addr"],
                    section["sh_offset"],
                    section["sh_size"],
                    section["sh_type"] not in ("SHT_NOBITS", "SHT_NULL")
                    and not section["sh_flags"] & SH_FLAGS.SHF_COMPRESSED,
                    section["sh_link"],
                )
                for section in elf.iter_sections()
            ]
        except KernelFileError:
            raise
        except DAMAGE as error:
            raise KernelFileError(
                f"{name} is not an ELF file, or is damaged ({error}); give the kernel's own file"
            ) from error

    @classmethod
    def open(cls, path: Path) -> "ElfImage":
        """Read the file at `path`.

        Raises:
            KernelFileError: if it cannot be read or is no ELF64 file for PowerPC64.
        """
        return cls(_read_file(path, b"\x7fELF"), str(path))

    def section(self, name: str) -> Section | None:
        """Return the first section called `name`, or None."""
        return next((section for section in self.sections if section.name == name), None)

    def contents(self, section: Section) -> bytes:
        """Return the bytes of `section`.

        Raises:
            KernelFileError: if the file is cut short, or has no bytes for it.
        """
        end = section.offset + section.size
        if not section.in_file or end > len(self.data):
            raise KernelFileError(
                f"section {section.name} of {self.name} is not in the file; it is cut short"
            )
        return self.data[section.offset : end]

    def read_at(self, address: int, length: int) -> bytes:
        """Return `length` bytes at link address `address`.

        Raises:
            KernelFileError: if no section of the file holds them.
        """
        for section in self.sections:
            into = address - section.address
            if section.in_file and section.address and 0 <= into <= section.size - length:
                start = section.offset + into
                return self.data[start : start + length]
        raise KernelFileError(f"{self.name} holds no bytes for address {address:#x}")

    def build_id(self) -> bytes | None:
        """Return the NT_GNU_BUILD_ID note's description, or None."""
        for section in self.sections:
            if section.in_file and section.name.startswith(".note"):
                found = find_build_id(self.contents(section), self.byteorder)
                if found is not None:
                    return found
        return None


def find_build_id(notes: bytes, byteorder: ByteOrder) -> bytes | None:
    """Return the GNU build id among ELF `notes` (4-byte aligned), or None."""
    at = build_id_place(notes, byteorder)
    if at is None:
        return None
    size = int.from_bytes(notes[at + 4 : at + 8], byteorder)
    return notes[at + 16 : at + 16 + size]


def build_id_place(notes: bytes, byteorder: ByteOrder) -> int | None:
    """Return the offset of the note with the GNU build id among ELF `notes`, or None."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = (
            int.from_bytes(notes[at + step : at + step + 4], byteorder) for step in (0, 4, 8)
        )
        if kind == NT_GNU_BUILD_ID and notes[at + 12 : at + 12 + name_size] == b"GNU\0":
            return at
        at += 12 + (name_size + 3 & ~3) + (size + 3 & ~3)
    return None


def read_module_file(path: Path) -> bytes:
    """Return the ELF bytes of a `.ko`, `.ko.xz`, `.ko.gz` or `.ko.zst` file.

    Raises:
        KernelFileError: if it cannot be read or decompressed, or is larger
            than `MAX_MODULE_BYTES` when decompressed.
    """
    data = _read_file(path)
    try:
        if path.suffix == ".xz":
            unpacker = lzma.LZMADecompressor(memlimit=MAX_MODULE_BYTES)
            data = unpacker.decompress(data, MAX_MODULE_BYTES + 1)
            if not unpacker.eof and len(data) <= MAX_MODULE_BYTES:
                raise EOFError("it is cut short")
        elif path.suffix == ".gz":
            with gzip.GzipFile(fileobj=BytesIO(data)) as packed:
                data = packed.read(MAX_MODULE_BYTES + 1)
        elif path.suffix == ".zst":
            data = _decompress_zstd(data, path)
    except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise KernelFileError(f"{path} cannot be decompressed: {error}") from error
    if len(data) > MAX_MODULE_BYTES:
        raise KernelFileError(f"{path} is larger than {MAX_MODULE_BYTES} bytes unpacked")
    return data


def _decompress_zstd(data: bytes, path: Path) -> bytes:
    """Decompress with the `zstandard` package, which is optional."""
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise KernelFileError(
            f"{path} needs the Python package zstandard; install it, or unpack the file with zstd"
        ) from error
    try:
        with zstandard.ZstdDecompressor().stream_reader(BytesIO(data)) as packed:
            return bytes(packed.read(MAX_MODULE_BYTES + 1))
    except zstandard.ZstdError as error:
        raise KernelFileError(f"{path} cannot be decompressed: {error}") from error


def find_module_file(modules_dir: Path, name: str) -> Path | None:
    """Return the file of module `name` anywhere below `modules_dir`, or None.

    The kernel writes `_` where a file name may have `-`.
    """
    wanted = {
        spelling + suffix
        for spelling in (name, name.replace("_", "-"), name.replace("-", "_"))
        for suffix in (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
    }
    return next(
        (path for path in sorted(modules_dir.rglob("*.ko*")) if path.name in wanted),
        None,
    )


def _read_file(path: Path, magic: bytes = b"") -> bytes:
    try:
        if not path.is_file():
            raise KernelFileError(f"{path} is not there, or is not a regular file")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise KernelFileError(f"{path} is larger than any kernel ({MAX_IMAGE_BYTES} bytes)")
        with path.open("rb") as file:
            if file.read(len(magic)) != magic:
                raise KernelFileError(f"{path} is not an ELF file; give an uncompressed vmlinux")
            file.seek(0)
            return file.read()
    except OSError as error:
        raise KernelFileError(f"{path} cannot be read: {error.strerror}") from error
