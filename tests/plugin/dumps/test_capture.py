"""A capture answers as the original does, and holds nothing else."""

import lzma
from pathlib import Path

import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.guest_memory import GuestMemory
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.kernel import KernelError
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.radix import RadixRoot, walk
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.state import State
from nestscope.decoders.state_json import to_json
from nestscope.plugin.dumps.capture import Capture, capture, write_capture
from nestscope.plugin.target import open_target
from tests.plugin.dumps.worlds import (
    GUEST_PAGE,
    LOWER,
    MARKER,
    PARTITION_TABLE,
    ROOT,
    ROOT_ENTRY,
    World,
    make_world,
    state,
)

ORDERS: list[ByteOrder] = ["little", "big"]


def without_source(state: State) -> str:
    text = to_json(state)
    return text[text.index('"kernel"') :]


def take(world: World, path: Path) -> Capture:
    made = capture(world.memory, world.kernel, world.source, ())
    write_capture(made, world.memory, world.kernel, path)
    return made


@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("name", ["capture.elf", "capture.elf.xz"])
def test_a_capture_shows_the_same_state_without_any_other_file(
    tmp_path: Path, byteorder: ByteOrder, name: str
) -> None:
    world = make_world(tmp_path, byteorder)
    take(world, tmp_path / name)
    original = read_state(world.memory, world.kernel, world.source)
    assert original.problems == ()
    assert len(original.vms[0].memslots[0].rmap) == 2
    with open_target(str(tmp_path / name)) as target:
        assert without_source(target.state()) == without_source(original)


def test_it_is_an_ordinary_elf_core_in_the_kernels_byte_order(tmp_path: Path) -> None:
    for byteorder in ORDERS:
        world = make_world(tmp_path, byteorder)
        path = tmp_path / byteorder
        made = take(world, path)
        with ElfCore(path) as core:
            assert core.order == ("<" if byteorder == "little" else ">")
            assert core.ranges() == list(made.ranges)
            assert [note.name for note in core.notes] == ["NESTSCOPE", "NESTSCOPE"]
            assert core.read(0x4200_0000, 8) == ROOT_ENTRY


def test_of_a_guest_only_its_translation_tables_are_kept(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    made = take(world, tmp_path / "capture")
    assert MARKER in world.memory.read(GUEST_PAGE, 100)
    assert b"secret" not in (tmp_path / "capture").read_bytes()
    inside = [(a - GUEST_PAGE, b - GUEST_PAGE) for a, b in made.ranges if a >= GUEST_PAGE]
    entry = PARTITION_TABLE + 7 * 16
    assert inside == [(entry, entry + 16), (LOWER, LOWER + 4096), (0x200_0000, 0x201_0000)]


def test_a_walk_of_the_guests_tree_finds_the_same_in_the_capture(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    take(world, tmp_path / "capture")
    vm = read_state(world.memory, world.kernel, world.source).vms[0]
    root = RadixRoot.from_dw0(vm.nested[0].l1_gr_to_hr or 0)
    with open_target(str(tmp_path / "capture")) as target:
        then = walk(GuestMemory(target.memory, vm.host_leaves), root, 0x10000)
    assert then == walk(GuestMemory(world.memory, vm.host_leaves), root, 0x10000)
    assert len(then.steps) == 2


@pytest.mark.parametrize("what", ["vm_list", "chain"])
def test_problems_are_the_same_word_for_word(tmp_path: Path, what: str) -> None:
    clean = make_world(tmp_path)
    address = clean.kernel.symbol("vm_list").address
    if what == "chain":
        address = (state_of(clean).vms[0].memslots[0].rmap_array or 0) + 9 * 8
    wild = (0xC000_0007_1234_5670).to_bytes(8, "little")
    world = make_world(tmp_path, damage={clean.kernel.memory.translate(address): wild})
    take(world, tmp_path / "capture")
    original = state_of(world)
    assert len(original.problems) == (2 if what == "vm_list" else 1)
    assert ("dump.elf" in original.problems[0].message) == (what == "vm_list")
    with open_target(str(tmp_path / "capture")) as target:
        assert without_source(target.state()) == without_source(original)


def state_of(world: World) -> State:
    return read_state(world.memory, world.kernel, world.source)


def test_a_capture_of_a_capture_is_the_same_capture(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    take(world, tmp_path / "first")
    with open_target(str(tmp_path / "first")) as target:
        made = capture(target.memory, target.kernel, target.source, target.notes)
        write_capture(made, target.memory, target.kernel, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_packed_capture_is_the_plain_one(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    take(world, tmp_path / "plain")
    take(world, tmp_path / "packed.xz")
    assert (
        lzma.decompress((tmp_path / "packed.xz").read_bytes()) == (tmp_path / "plain").read_bytes()
    )


def test_a_profile_of_another_build_is_refused_with_both_named(tmp_path: Path) -> None:
    other = Profile("6.1", b"\xab" * 20, "little", b"", 0, {}, {}, {})
    (tmp_path / "other.json").write_text(other.to_json())
    with (
        pytest.raises(KernelError, match=r"capture of build [0-9a-f]{40}.*build abab"),
        open_target("sample:", profile=tmp_path / "other.json"),
    ):
        pass


def test_guest_memory_goes_through_the_host_leaves(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    leaves = state().vms[0].host_leaves
    memory = GuestMemory(world.memory, leaves)
    assert memory.read(ROOT, 8) == ROOT_ENTRY
    assert memory.read(0x10_0010, 4) == world.memory.read(0x4100_0010, 4)
    for address, length in ((0x1_0000, 1), (0xFFFF, 2), (0xF_FFFF, 2), (1 << 63, 8)):
        with pytest.raises(UnreadableMemoryError, match=r"maps no page|no such range"):
            memory.read(address, length)
