"""Memslots and the dirty log: transitions 20 and 21."""

import pytest

from nestscope.decoders.state import Memslot
from nestscope.sim.constants import EFAULT, U64
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.facts import Observations

from .world import World

G, N = 0x800_0000, 0x100_0000
HVA = 0x2000_0000_0000
SLOT = f"slot 1 {G:#x} 0x1000000 {HVA:#x} 0"
LOGGED = SLOT[:-1] + "1"
EINVAL, EEXIST, ENOENT, ENOTTY, ENOMEM = (2**64 - n for n in (22, 17, 2, 25, 12))
C, R = 0x80, 0x100


def slot(world: World, number: int) -> Memslot | None:
    return next((memslot for memslot in world.vm.memslots if memslot.id == number), None)


def mapped(
    line: str = SLOT, lpids: tuple[int, ...] = (1,), verb: str = "store", **facts: int
) -> World:
    """Nested guests that use the first page of a second slot."""
    world = World(**facts)
    assert world.run(line).ret == 0
    for lpid in lpids:
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC")
        world.run(f"{verb} {lpid} {N:#x}" + (" 5" if verb == "store" else ""))
    return world


def test_21_a_slot_comes_empty_and_with_an_array_of_its_own() -> None:
    world = mapped()
    first, second = slot(world, 0), slot(world, 1)
    assert first is not None
    assert second is not None
    assert (second.base_gfn, second.npages, second.flags) == (G >> 16, 0x100, 0)
    assert first.rmap_array != second.rmap_array
    assert world.chain(G) == ("single", ((1, N),))


def test_21_a_deleted_slot_takes_leaves_and_chains_along() -> None:
    world = mapped(lpids=(1, 2))
    assert world.run("unslot 1").ret == 0
    assert slot(world, 1) is None is world.host(G)
    assert world.shadow(1, N) is None is world.shadow(2, N)


def test_21_memory_stays_when_its_slot_goes_and_comes_back() -> None:
    world = mapped()
    world.run("unslot 1", SLOT)
    assert world.chain(G) is None
    assert world.run(f"load 1 {N:#x}").value == 5


def test_21_a_moved_slot_keeps_its_memory_and_its_array() -> None:
    world = mapped()
    before = slot(world, 1)
    assert world.run(f"moveslot 1 {2 * G:#x}").ret == 0
    after = slot(world, 1)
    assert before is not None
    assert after is not None
    assert (after.base_gfn, after.rmap_array) == (2 * G >> 16, before.rmap_array)
    assert world.host(G) is None is world.shadow(1, N)
    world.run(f"map 1 {N:#x} {2 * G:#x} 64K rwxRC")
    assert world.run(f"load 1 {N:#x}").value == 5
    assert world.chain(2 * G) == ("single", ((1, N),))


def test_21_entries_without_a_host_leaf_move_along_and_belong_to_another_gfn() -> None:
    world = mapped()
    world.model.kvm.pgtable.change(G, 0, 0)  # what no correct host does: it breaks I2
    world.run(f"moveslot 1 {2 * G:#x}")
    assert world.chain(2 * G) == ("single", ((1, N),))


@pytest.mark.parametrize("flags", [(0, 1), (1, 0)])
def test_21_toggling_dirty_logging_unmaps_the_slot(flags: tuple[int, int]) -> None:
    world = mapped(SLOT[:-1] + str(flags[0]))
    seq = world.model.kvm.mmu_invalidate_seq
    assert world.run(f"slotflags 1 {flags[1]}").ret == 0
    assert world.host(G) is None is world.chain(G)
    assert world.shadow(1, N) is None
    assert world.model.kvm.mmu_invalidate_seq == seq + 1


def test_21_setting_the_same_flags_changes_nothing() -> None:
    world = mapped(LOGGED)
    assert world.run("slotflags 1 1").ret == 0
    assert world.shadow(1, N) is not None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (f"slot 2 {G + 0x10000:#x} 0x10000 0x300000000000 0", EEXIST),
        ("moveslot 1 0x4000000", 0),
        (f"slot 1 {G:#x} 0x1000000 0x300000000000 0", EINVAL),
        (f"slot 1 {G:#x} 0x2000000 {HVA:#x} 0", EINVAL),
        (f"slot 2 {2 * G:#x} 0x8000 0x300000000000 0", EINVAL),
        (f"slot 2 {2 * G:#x} 0x10000 0x300000000000 4", EINVAL),
        (f"slot 2 {2 * G:#x} 0x10000 0x300000000000 2", EINVAL),  # POWER has no read-only slots
        (f"slot 40000 {2 * G:#x} 0x10000 0x300000000000 0", EINVAL),
        ("unslot 9", EINVAL),
    ],
)
def test_21_what_the_kernel_refuses(line: str, error: int) -> None:
    world = mapped()
    assert world.run(line).ret == error


@pytest.mark.parametrize(
    "line", [f"slot 2 {2 * G:#x} 0x10000 0x300000000000 0", "unslot 1", "slotflags 1 1"]
)
def test_21_without_memory_nothing_changes(line: str) -> None:
    world = mapped()
    before = world.vm
    assert world.run(line, observed=Observations(("memslot",))).ret == ENOMEM
    assert [m.id for m in world.vm.memslots] == [m.id for m in before.memslots]
    assert world.shadow(1, N) is not None


def test_20_the_log_tells_what_was_written_once() -> None:
    world = mapped(LOGGED)
    world.run(f"map 1 {N + 0x50000:#x} {G + 0x50000:#x} 64K rwxRC")
    world.run(f"load 1 {N + 0x50000:#x}")
    assert world.run("dirtylog 1").value == 1
    assert world.run("dirtylog 1").value == 0


def test_20_reading_the_log_clears_c_in_host_and_shadow_leaf() -> None:
    world = mapped(LOGGED, lpids=(1, 2))
    assert all((world.shadow(lpid, N) or 0) & C for lpid in (1, 2))
    chain = world.chain(G)
    world.run("dirtylog 1")
    assert not (world.host(G) or C) & C
    assert not any((world.shadow(lpid, N) or C) & C for lpid in (1, 2))
    assert (world.host(G) or 0) & R
    assert world.chain(G) == chain


def test_20_without_hardware_that_sets_c_a_further_store_is_logged_again() -> None:
    world = mapped(LOGGED, rc_by_hardware=False)
    world.run("dirtylog 1", f"store 1 {N:#x} 6")
    assert (world.host(G) or 0) & C
    assert (world.shadow(1, N) or 0) & C
    assert world.run("dirtylog 1").value == 1


def test_20_hardware_that_sets_c_marks_the_shadow_leaf_only_and_the_log_misses_it() -> None:
    world = mapped(LOGGED, rc_by_hardware=True)
    world.run("dirtylog 1", f"store 1 {N:#x} 6")
    assert (world.shadow(1, N) or 0) & C
    assert not (world.host(G) or C) & C  # I4
    assert world.run("dirtylog 1").value == 0


def test_20_a_page_that_went_away_dirty_is_in_the_log() -> None:
    world = mapped(LOGGED)
    world.run(f"discard {G:#x} 0x10000")
    assert world.run("dirtylog 1").value == 1


def test_20_a_page_that_the_kernel_writes_is_in_the_log() -> None:
    world = World()
    world.run("slotflags 0 1", "dirtylog 0", f"map 1 {N:#x} 0x900000 64K rwxRC")
    world.run("load 1 0x7000000")
    bitmap = world.run("dirtylog 0").value
    assert bitmap is not None
    assert bitmap >> (0x3_0000 >> 16) & 1  # hv_guest_state and the registers


def test_20_shadow_leaves_of_another_page_keep_c() -> None:
    world = mapped(LOGGED)
    world.run(f"unmap 1 {N:#x}", f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn={N >> 12:#x}")
    world.run(f"map 1 {N:#x} 0x900000 64K rwxRC", f"store 1 {N:#x} 1")
    world.run("dirtylog 1")
    assert (world.shadow(1, N) or 0) & C


@pytest.mark.parametrize(
    ("line", "error"), [("dirtylog 1", ENOENT), ("dirtylog 9", ENOENT), ("dirtylog 40000", EINVAL)]
)
def test_20_without_logging_there_is_no_log(line: str, error: int) -> None:
    assert mapped().run(line).ret == error


def test_20_power_has_no_separate_clear() -> None:
    world = mapped(LOGGED)
    assert world.run("cleardirty 1 0 64").ret == ENOTTY
    assert world.run("dirtylog 1").value == 1


def test_20_a_huge_leaf_in_a_slot_that_logs_is_not_predicted() -> None:
    world = mapped(LOGGED)
    world.model.kvm.pgtable.pmd_leaves[G >> 21] = 0xC000_0000_0000_0087
    with pytest.raises(UnmodelledError, match="VM_BUG_ON"):
        world.run("dirtylog 1")


def test_a_read_only_slot_gives_read_only_leaves_and_stores_a_dsi() -> None:
    world = World(readonly_memslots=True)
    world.run(SLOT[:-1] + "2", f"map 1 {N:#x} {G:#x} 64K rwxRC")
    world.model.kvm.memory.new_page(HVA >> 16)  # the VMM has written there
    assert world.run(f"load 1 {N:#x}").ret == 0xC00
    assert world.shadow_flags(1, N) == 0x105
    result = world.run(f"store 1 {N:#x} 1")
    assert (result.ret, result.r3, result.nip) == (0xC00, 0x300, 0x308)
    assert world.shadow_flags(1, N) == 0x105


def test_a_page_that_the_vmm_cannot_write_is_mapped_read_only_and_a_store_fails() -> None:
    world = World()
    world.run("write 0x900000 3", "protect 0x900000 0x10000 ro", f"map 1 {N:#x} 0x900000 64K rwxRC")
    assert world.run(f"load 1 {N:#x}").value == 3
    assert world.shadow_flags(1, N) == 0x105
    result = world.run(f"store 1 {N:#x} 1")
    assert (result.ret, result.hdsisr) == (0xE00, 0x0A00_0000)  # -EFAULT: the fault as it was
    world.run("protect 0x900000 0x10000 rw")
    assert world.shadow(1, N) is None
    assert world.run(f"store 1 {N:#x} 1").ret == 0xC00


def test_the_vmm_itself_cannot_write_what_it_protected() -> None:
    world = World()
    world.run("write 0x900000 5", "protect 0x900000 0x10000 ro")
    assert world.run("write 0x900000 3").ret == U64 & -EFAULT
    world.run(f"map 1 {0x1000000:#x} 0x900000 64K rwxRC")
    assert world.run(f"load 1 {0x1000000:#x}").value == 5
