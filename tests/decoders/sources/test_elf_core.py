"""ELF cores: physical memory by p_paddr, whatever the header's byte order."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.mapped import SourceFileError
from tests.decoders.sources.elf_bytes import ET_EXEC, elf_core

FIRST = bytes(range(64))
SECOND = bytes(range(100, 164))


def _open(folder: Path, data: bytes) -> ElfCore:
    path = folder / "dump.elf"
    path.write_bytes(data)
    return ElfCore(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_memory_is_never_swapped(tmp_path: Path, order: str) -> None:
    with _open(tmp_path, elf_core([(0x1000, FIRST), (0x8000, SECOND)], order=order)) as core:
        assert core.read(0x1000, 8) == bytes(range(8))
        assert core.read(0x8008, 4) == bytes([108, 109, 110, 111])


def test_a_read_across_touching_segments_is_one_read(tmp_path: Path) -> None:
    with _open(tmp_path, elf_core([(0x1040, SECOND), (0x1000, FIRST)])) as core:
        assert core.read(0x103E, 4) == bytes([62, 63, 100, 101])


def test_a_hole_is_unreadable_and_named(tmp_path: Path) -> None:
    with _open(tmp_path, elf_core([(0x1000, FIRST), (0x8000, SECOND)])) as core:
        with pytest.raises(UnreadableMemoryError, match="0x1040"):
            core.read(0x1000, 65)
        with pytest.raises(UnreadableMemoryError, match="0xfff"):
            core.read(0xFFF, 2)


def test_bytes_that_were_not_dumped_are_not_zero(tmp_path: Path) -> None:
    with _open(tmp_path, elf_core([(0, FIRST), (0x10000, SECOND)], memsz=4096)) as core:
        assert core.read(63, 1) == b"\x3f"
        with pytest.raises(UnreadableMemoryError):
            core.read(64, 1)


def test_more_than_65534_segments_are_counted_in_the_section_header(tmp_path: Path) -> None:
    # The data that follows the real headers looks like one more.
    decoy = struct.pack("<IIQQQQQQ", 1, 0, 0, 0, 0x5000, 16, 16, 0)
    with _open(tmp_path, elf_core([(0, decoy), (0x100, SECOND)], extended_count=True)) as core:
        assert core.read(0x100, 2) == bytes([100, 101])
        with pytest.raises(UnreadableMemoryError):
            core.read(0x5000, 1)


def test_of_a_truncated_file_what_is_there_can_be_read(tmp_path: Path) -> None:
    data = elf_core([(0, FIRST), (0x100, SECOND)])
    with _open(tmp_path, data[:-60]) as core:
        assert core.read(0, 64) == FIRST
        assert core.read(0x100, 4) == SECOND[:4]
        with pytest.raises(UnreadableMemoryError):
            core.read(0x100, 5)


def test_a_core_without_any_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="cut short"):
        _open(tmp_path, elf_core([(0, FIRST)])[:-64])


def test_an_image_that_is_no_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="--vmlinux"):
        _open(tmp_path, elf_core([(0, FIRST)], kind=ET_EXEC))


def test_a_core_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="EM_X86_64"):
        _open(tmp_path, elf_core([(0, FIRST)], machine=62))


def test_of_overlapping_segments_the_later_start_holds(tmp_path: Path) -> None:
    with _open(tmp_path, elf_core([(0, FIRST), (32, SECOND)])) as core:
        assert core.read(31, 2) == bytes([31, 100])


@given(st.data())
def test_a_damaged_header_never_surprises(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(elf_core([(0x1000, FIRST), (0x8000, SECOND)]))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(4, 64 + 64 + 3 * 56 - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    try:
        with _open(folder, bytes(good)) as core:
            core.read(0x1000, 64)
    except NestscopeError:
        pass
