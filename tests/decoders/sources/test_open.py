"""A source is recognised by its content, not by its name."""

import os
from pathlib import Path

import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.mapped import SourceFileError
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import Source
from tests.decoders.sources.elf_bytes import elf_core


def test_an_elf_core_by_any_name(tmp_path: Path) -> None:
    path = tmp_path / "memory.bin"
    path.write_bytes(elf_core([(0x100, b"abcd")], order=">"))
    memory, source = open_source(path)
    with memory:
        assert source == Source("elf-core", "memory.bin")
        assert memory.read(0x100, 4) == b"abcd"


def test_anything_else_is_a_raw_image(tmp_path: Path) -> None:
    path = tmp_path / "image.elf"
    path.write_bytes(b"\0" * 16 + b"abcd")
    memory, source = open_source(path)
    with memory:
        assert source == Source("raw", "image.elf")
        assert memory.read(16, 4) == b"abcd"


def test_a_ram_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(elf_core([(0x100, b"abcd")]))
    memory, source = open_source(f"ram:{path}")
    with memory:
        assert source == Source("ram", "ram")
        assert memory.read(0, 4) == b"\x7fELF"


def test_a_ram_file_shows_what_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(4096))
    memory, _ = open_source(f"ram:{path}")
    with memory:
        with path.open("r+b") as file:
            file.seek(8)
            file.write(b"live")
        assert memory.read(8, 4) == b"live"


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"DISKDUMP", "a diskdump"),
        (b"KDUMP   ", "cut short"),
        (b"makedumpfile", "unknown type"),
        (b"\xfd7zXZ\0", "xz"),
    ],
)
def test_a_known_format_never_passes_for_raw_memory(
    tmp_path: Path, start: bytes, what: str
) -> None:
    path = tmp_path / "dump"
    path.write_bytes(start + bytes(100))
    with pytest.raises(SourceFileError, match=what):
        open_source(path)


def test_what_is_no_file_of_memory_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="No such file"):
        open_source(tmp_path / "absent")
    with pytest.raises(SourceFileError, match="has 0 files"):
        open_source(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(SourceFileError, match="not a regular file"):
        open_source(fifo)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(SourceFileError, match="is empty"):
        open_source(f"ram:{empty}")


def test_a_closed_source_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(64))
    memory, _ = open_source(path)
    memory.close()
    memory.close()
    with pytest.raises(UnreadableMemoryError):
        memory.read(0, 1)
