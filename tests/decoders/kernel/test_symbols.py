"""Symbols and sections of kernel files."""

import gzip
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.elf_image import (
    ElfImage,
    KernelFileError,
    find_build_id,
    find_module_file,
    read_module_file,
)
from nestscope.decoders.kernel.symbols import (
    Symbol,
    SymbolTable,
    UnknownSymbolError,
    local_entry_offset,
)
from tests.decoders.kernel.elf_file import FUNC, LOCAL, SECTION, Sym, build_id_note, elf_file

BUILD_ID = bytes(range(20))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_symbol_has_address_size_and_local_entry(order: str) -> None:
    data = elf_file(
        [(".text", 0xC000_0000_0000_0000, bytes(64))],
        [
            Sym("data", 0xC000_0000_0000_0010, 16),
            Sym("function", 0xC000_0000_0000_0020, 24, FUNC, other=3 << 5),
            Sym("elsewhere", 0, shndx=0),
            Sym("", 0xC000_0000_0000_0000, kind=SECTION),
        ],
        order=order,
    )
    table = SymbolTable.of_image(ElfImage(data, "vmlinux"))
    assert table["data"] == Symbol("data", 0xC000_0000_0000_0010, 16, 0xC000_0000_0000_0010)
    assert table["function"].local_entry == 0xC000_0000_0000_0028
    assert set(table) == {"data", "function"}
    assert table.get("elsewhere") is None
    with pytest.raises(UnknownSymbolError, match="elsewhere"):
        table["elsewhere"]


def test_a_global_symbol_goes_before_local_ones_of_its_name() -> None:
    symbols = [
        Sym("twice", 0x10, binding=LOCAL),
        Sym("twice", 0x20),
        Sym("twice", 0x30, binding=LOCAL),
        Sym("first", 0x40, binding=LOCAL),
        Sym("first", 0x50, binding=LOCAL),
    ]
    table = SymbolTable.of_image(ElfImage(elf_file([(".text", 0, b"")], symbols), "x"))
    assert table["twice"].address == 0x20
    assert table["first"].address == 0x40


def test_local_entry_offsets_are_those_of_the_abi() -> None:
    # ELFv2 ABI: bits 5:7 of st_other are log2 of the distance; 0 and 1 mean none.
    distances = [local_entry_offset(bits << 5) for bits in range(7)]
    assert distances == [0, 0, 4, 8, 16, 32, 64]
    assert local_entry_offset(0x3F & ~0xE0) == 0  # visibility bits are not ours


def test_a_stripped_image_is_refused() -> None:
    with pytest.raises(KernelFileError, match="unstripped"):
        SymbolTable.of_image(ElfImage(elf_file([(".text", 0, b"")], None), "vmlinux"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_build_id_is_found_behind_other_notes(order: str) -> None:
    notes = build_id_note(BUILD_ID, order)
    image = ElfImage(elf_file([(".notes", 0x1000, notes)], [], order=order), "vmlinux")
    assert image.build_id() == BUILD_ID
    assert find_build_id(notes[:20], image.byteorder) is None


def test_bytes_at_a_link_address() -> None:
    image = ElfImage(elf_file([(".rodata", 0x1000, b"abcdef")], []), "vmlinux")
    assert image.read_at(0x1002, 3) == b"cde"
    with pytest.raises(KernelFileError, match="0x1004"):
        image.read_at(0x1004, 3)


def test_files_that_are_no_kernel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="PowerPC64"):
        ElfImage(elf_file([], [], machine=62), "x86")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(KernelFileError, match="not an ELF file"):
        ElfImage.open(script)
    with pytest.raises(KernelFileError, match="not there"):
        ElfImage.open(tmp_path / "absent")
    with pytest.raises(KernelFileError, match="not a regular file"):
        ElfImage.open(tmp_path)


@given(st.data())
def test_a_damaged_file_never_surprises(data: st.DataObject) -> None:
    sections = [(".notes", 0x1000, build_id_note(BUILD_ID, "<")), (".text", 0x2000, bytes(32))]
    good = elf_file(sections, [Sym("a", 0x2000), Sym("b", 0x2008, kind=FUNC)])
    bad = bytearray(good[: data.draw(st.integers(64, len(good)))])
    for _ in range(data.draw(st.integers(0, 6))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = ElfImage(bytes(bad), "damaged")
        image.build_id()
        SymbolTable.of_image(image)
    except NestscopeError:
        pass


def test_module_files_are_found_by_either_spelling_and_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "kernel" / "arch"
    folder.mkdir(parents=True)
    (folder / "kvm-hv.ko.xz").write_bytes(lzma.compress(b"module"))
    (folder / "kvm.ko.gz").write_bytes(gzip.compress(b"other"))
    (folder / "plain.ko").write_bytes(b"plain")
    for name, contents in (("kvm_hv", b"module"), ("kvm", b"other"), ("plain", b"plain")):
        path = find_module_file(tmp_path, name)
        assert path is not None
        assert read_module_file(path) == contents
    assert find_module_file(tmp_path, "vm") is None


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_a_module_file_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    packed = (lzma if suffix == ".xz" else gzip).compress(bytes(range(256)) * 100)
    path = tmp_path / f"kvm.ko{suffix}"
    path.write_bytes(packed[:-20])
    with pytest.raises(KernelFileError, match="cannot be decompressed"):
        read_module_file(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(KernelFileError, match="cannot be decompressed"):
        read_module_file(path)
