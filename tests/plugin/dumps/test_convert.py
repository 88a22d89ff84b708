"""A converted dump opens in drgn, and our readers run inside of it."""

import struct
from pathlib import Path

import pytest

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.state_json import to_json
from nestscope.plugin.drgn_memory import DrgnMemory
from nestscope.plugin.dumps.convert import convert
from nestscope.plugin.dumps.vmcoreinfo import find_vmcoreinfo
from tests.plugin.dumps.worlds import MARKER, World, make_world

PAGE_OF_TEXT = 0x4100_0000


def vmcoreinfo(pgd: int, release: bytes = b"6.12.0-test") -> bytes:
    return (
        b"OSRELEASE=%s\nBUILD-ID=00\nPAGESIZE=65536\nSYMBOL(init_uts_ns)=c000000001000000\n"
        b"OFFSET(uts_namespace.name)=4\nSYMBOL(swapper_pg_dir)=%x\n\0" % (release, pgd)
    )


def world_with_vmcoreinfo(folder: Path, release: bytes = b"6.12.0-test") -> World:
    pgd = make_world(folder).kernel.symbols["swapper_pg_dir"].address
    return make_world(folder, damage={PAGE_OF_TEXT: vmcoreinfo(pgd, release)})


def test_vmcoreinfo_of_this_kernel_is_found_without_symbols(tmp_path: Path) -> None:
    world = world_with_vmcoreinfo(tmp_path)
    note = find_vmcoreinfo(world.kernel, world.memory)
    assert note is not None
    assert note.name == "VMCOREINFO"
    assert note.data.startswith(b"OSRELEASE=6.12.0-test\n")
    assert note.data.endswith(b"\n")


def test_vmcoreinfo_of_another_kernel_is_not_taken(tmp_path: Path) -> None:
    world = world_with_vmcoreinfo(tmp_path, b"5.10.0-of-a-guest")
    assert find_vmcoreinfo(world.kernel, world.memory) is None
    with pytest.raises(NestscopeError, match="VMCOREINFO"):
        convert(world.memory, world.kernel, tmp_path / "vmcore")
    assert not (tmp_path / "vmcore").exists()


def test_vmcoreinfo_of_a_guest_with_the_same_release_is_not_taken(tmp_path: Path) -> None:
    world = make_world(tmp_path, damage={PAGE_OF_TEXT: vmcoreinfo(0xC000_0000_0AAA_0000)})
    assert find_vmcoreinfo(world.kernel, world.memory) is None


def test_a_converted_dump_holds_all_memory_and_the_note(tmp_path: Path) -> None:
    world = world_with_vmcoreinfo(tmp_path)
    written, missing = convert(world.memory, world.kernel, tmp_path / "vmcore")
    with ElfCore(tmp_path / "vmcore") as core:
        assert core.ranges() == world.memory.ranges()
        assert [note.name for note in core.notes] == ["VMCOREINFO"]
        for start, end in core.ranges():
            assert core.read(start, end - start) == world.memory.read(start, end - start)
        assert written == sum(end - start for start, end in core.ranges())
    assert missing == 0


def test_drgn_opens_it_and_our_readers_run_inside_drgn(tmp_path: Path) -> None:
    drgn = pytest.importorskip("drgn", reason="drgn is not installed: pip install drgn")
    world = world_with_vmcoreinfo(tmp_path)
    convert(world.memory, world.kernel, tmp_path / "vmcore")
    program = drgn.Program()
    program.set_core_dump(str(tmp_path / "vmcore"))
    assert program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert program.platform.flags & drgn.PlatformFlags.IS_LITTLE_ENDIAN
    linear = 0xC000_0000_4100_0000 + 4096
    assert program.read(linear, 40) == world.memory.read(PAGE_OF_TEXT + 4096, 40)
    assert MARKER in program.read(linear, 40)

    memory = DrgnMemory(program)
    found = read_state(memory, world.image.facts.open(memory, world.image.types), world.source)
    original = read_state(world.memory, world.kernel, world.source)
    assert len(found.vms[0].host_leaves) == 3
    assert to_json(found) == to_json(original)
    with pytest.raises(UnreadableMemoryError, match="drgn says"):
        memory.read(0x7000_0000_0000, 8)


def test_another_error_of_drgn_is_not_hidden() -> None:
    class Broken:
        def read(self, address: int, size: int, physical: bool = False) -> bytes:
            raise struct.error(f"a defect at {address}, {size}, {physical}")

    with pytest.raises(struct.error):
        DrgnMemory(Broken()).read(0, 8)
