"""What the writer writes, the reader and pyelftools read."""

from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.elf_notes import Note
from nestscope.plugin.dumps.elf_writer import Order, write_core

NOTES = [Note("VMCOREINFO", 0, b"OSRELEASE=6\n"), Note("NESTSCOPE", 1, b"{}x")]


def _pattern(address: int, length: int) -> bytes:
    return bytes(length) if address >= 0x9000 else bytes((address + n) % 251 for n in range(length))


@pytest.mark.parametrize("order", ["<", ">"])
def test_memory_and_notes_come_back(tmp_path: Path, order: Order) -> None:
    path = tmp_path / "core"
    ranges = [(0x1000, 0x1010), (0x4000, 0x6001), (0x9000, 0x9100)]
    with path.open("wb") as file:
        write_core(file, order, NOTES, ranges, _pattern)
    with ElfCore(path) as core:
        assert core.order == order
        assert core.notes == NOTES
        assert core.ranges() == ranges
        for start, end in ranges:
            assert core.read(start, end - start) == _pattern(start, end - start)
        with pytest.raises(UnreadableMemoryError):
            core.read(0x1010, 1)
    with path.open("rb") as file:
        elf = ELFFile(file)
        loads = [one for one in elf.iter_segments() if one["p_type"] == "PT_LOAD"]
        assert [one["p_vaddr"] for one in loads] == [0xC << 60 | start for start, _ in ranges]
        (note,) = [one for one in elf.iter_segments() if isinstance(one, NoteSegment)]
        assert [found["n_name"] for found in note.iter_notes()] == ["VMCOREINFO", "NESTSCOPE"]


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    buffer = BytesIO()
    ranges = [(0x10 * n, 0x10 * n + 1) for n in range(70_000)]
    write_core(buffer, "<", [], ranges, _pattern)
    path = tmp_path / "core"
    path.write_bytes(buffer.getvalue())
    with ElfCore(path) as core:
        assert core.ranges() == ranges
