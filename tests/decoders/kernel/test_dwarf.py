"""DWARF as the cross compiler writes it, against the compiler's own offsetof and sizeof."""

import shutil
import struct
import subprocess
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel import dwarf
from nestscope.decoders.kernel.dwarf import Dwarf, DwarfError
from nestscope.decoders.kernel.elf_image import ElfImage
from nestscope.decoders.kernel.files import knowledge_of_files
from nestscope.decoders.kernel.knowledge import KernelError
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.types import Types, UnknownTypeError
from tests.decoders.kernel.elf_file import Sym, build_id_note, elf_file

COMPILER = "powerpc64le-linux-gnu-gcc"
SOURCE = """
typedef unsigned char u8; typedef unsigned long u64;
struct list { struct list *next, *prev; };
struct late;
struct kvm;
struct idr { struct { void *head; u8 mark:1, set:3; }; unsigned base; };
typedef struct { volatile int counter; } count_t;
typedef union { struct { u8 a; }; short both; } mixed;
struct slot { struct list node[2]; const u64 base; long grid[3][5]; struct idr tail[]; };
struct kvm { u64 first; struct list vm_list; mixed in; count_t users; enum { A, B } state;
             u64 low:5, high:40; struct slot *slots[4]; float f; struct late *later; };
struct kvm a_kvm; struct slot a_slot; struct late *unknown;
#define AT(s, m) __builtin_offsetof(struct s, m)
u64 facts[] = { sizeof(struct kvm), AT(kvm, vm_list.prev), AT(kvm, in.both), AT(kvm, users.counter),
    AT(kvm, state), AT(kvm, slots[3]), AT(kvm, f), sizeof(struct slot), AT(slot, node[1].prev),
    AT(slot, base), AT(slot, grid[2][4]), AT(slot, tail), sizeof(struct idr), AT(idr, base) };
"""
PATHS = [
    ("kvm", "vm_list.prev"),
    ("kvm", "in.both"),
    ("kvm", "users.counter"),
    ("kvm", "state"),
    ("kvm", "slots[3]"),
    ("kvm", "f"),
    ("slot", ""),
    ("slot", "node[1].prev"),
    ("slot", "base"),
    ("slot", "grid[2][4]"),
    ("slot", "tail"),
    ("idr", ""),
    ("idr", "base"),
]
VARIANTS = [
    (endian, version, relocatable)
    for endian in ("little", "big")
    for version in (4, 5)
    for relocatable in (True, False)
]


NO_NAME = SimpleNamespace(value=None)


@cache
def compiled(folder: Path, endian: str, version: int, relocatable: bool) -> ElfImage:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no {COMPILER}: install gcc-powerpc64le-linux-gnu")
    source, result = folder / "types.c", folder / f"{endian}{version}{relocatable}"
    source.write_text(SOURCE)
    link = ["-c"] if relocatable else ["-nostdlib", "-static", "-Wl,-e,0", "-Wl,--build-id=none"]
    options = [f"-m{endian}-endian", f"-gdwarf-{version}", "-mabi=elfv2", *link]
    subprocess.run(
        [COMPILER, *options, "-o", result, source], check=True, timeout=60, capture_output=True
    )
    return ElfImage.open(result)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dwarf")


@pytest.mark.parametrize(("endian", "version", "relocatable"), VARIANTS)
def test_offsets_and_sizes_are_the_compilers(
    folder: Path, endian: str, version: int, relocatable: bool
) -> None:
    image = compiled(folder, endian, version, relocatable)
    data = image.section(".data")
    assert data is not None
    order = "<" if endian == "little" else ">"
    facts = struct.unpack(f"{order}{1 + len(PATHS)}Q", image.contents(data)[: 8 * (1 + len(PATHS))])
    types = Types([Dwarf(image)])
    assert types.struct("kvm").size == facts[0]
    for (name, path), expected in zip(PATHS, facts[1:], strict=True):
        found = types.offset(name, path) if path else types.struct(name).size
        assert found == expected, (name, path)


@pytest.mark.parametrize(("endian", "version", "relocatable"), VARIANTS)
def test_kinds_of_members(folder: Path, endian: str, version: int, relocatable: bool) -> None:
    types = Types([Dwarf(compiled(folder, endian, version, relocatable))])
    assert types.member("kvm", "slots").dims == (4,)
    assert types.member("kvm", "slots").kind == "pointer"
    assert types.member("slot", "grid").dims == (3, 5)
    assert types.member("slot", "grid[1][1]").signed
    assert not types.member("slot", "base").signed
    assert types.member("slot", "tail").dims == (0,)
    assert types.member("kvm", "state").kind == "enum"
    assert types.member("kvm", "f").kind == "float"
    assert types.member("kvm", "in").kind == "struct"
    assert types.member("count_t", "counter").size == 4
    bits = [types.member("kvm", name).bits for name in ("low", "high")]
    assert [pair and pair[1] for pair in bits] == [5, 40]
    assert types.member("idr", "set").bits is not None
    with pytest.raises(UnknownTypeError):
        types.struct("late")  # declared, never defined
    with pytest.raises(UnknownTypeError):
        types.struct("nowhere")


@pytest.mark.parametrize("wild", [0, 0x7FFF_FFFF])
def test_an_entry_that_leads_out_of_its_unit_is_none(folder: Path, wild: int) -> None:
    """By chance four bytes are a name's and the byte before them is an abbreviation's."""
    image = compiled(folder, "little", 5, False)
    assert Dwarf(image).find("slot") is not None
    section = image.section(".debug_info")
    assert section is not None
    info = ELFFile(BytesIO(image.data)).get_dwarf_info()
    (entry,) = [
        die
        for unit in info.iter_CUs()
        for die in unit.iter_DIEs()
        if die.tag == "DW_TAG_structure_type"
        and die.attributes.get("DW_AT_name", NO_NAME).value == b"slot"
    ]
    sibling = entry.attributes["DW_AT_sibling"]
    assert sibling.form == "DW_FORM_ref4"
    raw = bytearray(image.data)
    struct.pack_into("<I", raw, section.offset + sibling.offset, wild)
    assert Dwarf(ElfImage(bytes(raw), "wild")).find("slot") is None


def test_what_was_not_looked_at_is_not_called_absent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dwarf, "MAX_PARSED", 0)
    found = Dwarf(compiled(folder, "little", 5, False))
    with pytest.raises(DwarfError, match=r"too many units.*may describe slot"):
        found.find("slot")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_debug_sections_never_surprise(folder: Path, data: st.DataObject) -> None:
    image = compiled(folder, "little", 5, True)
    raw = bytearray(image.data)
    names = (".debug_info", ".debug_abbrev", ".debug_str", ".rela.debug_info")
    section = image.section(data.draw(st.sampled_from(names)))
    assert section is not None
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, section.size - 1))
        raw[section.offset + at] = data.draw(st.integers(0, 255))
    try:
        types = Types([Dwarf(ElfImage(bytes(raw), "damaged"))])
        for name, path in PATHS:
            types.has(name, path or "x")
    except NestscopeError as error:
        assert "\n" not in str(error)


def test_a_file_without_debug_information() -> None:
    with pytest.raises(DwarfError, match="no DWARF"):
        Dwarf(ElfImage(elf_file([(".text", 0, b"")], []), "stripped"))


BANNER = LINEAR_START + 0x1000
TEXT = b"Linux version 6.1.9-test (a@b) #1\n\0"


def stripped(folder: Path, build_id: bytes) -> Path:
    sections = [
        (".rodata", BANNER, TEXT),
        (".notes", BANNER + 0x1000, build_id_note(build_id, "<")),
    ]
    path = folder / "vmlinux"
    path.write_bytes(elf_file(sections, [Sym("linux_banner", BANNER, len(TEXT))]))
    return path


def debug_file(path: Path, folder: Path, build_id: bytes) -> None:
    """Put the compiled types and a build id into one file."""
    whole = compiled(folder, "little", 5, False)
    sections = [
        (section.name, 0, whole.contents(section))
        for section in whole.sections
        if section.name.startswith(".debug")
    ]
    sections.append((".note.gnu.build-id", 0, build_id_note(build_id, "<")))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(elf_file(sections, []))


@pytest.mark.parametrize(
    "place",
    [
        ".build-id/78/787878787878787878787878787878787878.debug",
        "usr/lib/debug/.build-id/78/787878787878787878787878787878787878.debug",
        "usr/lib/debug/boot/vmlinux-6.1.9-test",
        "vmlinux.debug",
    ],
)
def test_separate_debug_files_are_found(folder: Path, tmp_path: Path, place: str) -> None:
    vmlinux = stripped(tmp_path, b"x" * 19)
    debug_file(tmp_path / "debug" / place, folder, b"x" * 19)
    layouts = knowledge_of_files(vmlinux, debug_dir=tmp_path / "debug").layouts
    assert Types(layouts).offset("kvm", "vm_list.prev") == 16
    assert knowledge_of_files(vmlinux).layouts == ()


def test_the_debug_file_of_another_build_is_refused_and_both_are_named(
    folder: Path, tmp_path: Path
) -> None:
    vmlinux = stripped(tmp_path, b"x" * 20)
    debug_file(tmp_path / "debug" / "vmlinux", folder, b"y" * 20)
    with pytest.raises(KernelError, match=f"{(b'x' * 20).hex()}.*{(b'y' * 20).hex()}"):
        knowledge_of_files(vmlinux, debug_dir=tmp_path / "debug")
