"""Huge pages on either side: transitions 10 to 13 and 22, for hosts with 4K and 64K pages."""

import pytest

from nestscope.sim.errors import HostDamageError
from nestscope.sim.facts import Observations

from .world import World

RPN = 0x01FF_FFFF_FFFF_F000
M, G = 1 << 21, 1 << 30
SLOT = "slot 1 0x40000000 0x80000000 0x200040000000 0"
NGPA = 0x4000_0000
SIZES = {12: "4K", 16: "64K", 21: "2M", 30: "1G"}


def world_with(host: int, page_shift: int = 16, **facts: int) -> World:
    """A second slot of 2 GiB at 1 GiB, its first page of `1 << host` bytes huge and written."""
    world = World(page_shift=page_shift, **facts)
    world.run(SLOT)
    if host > page_shift:
        world.run(f"collapse {G:#x} {SIZES[host]}")
    world.run(f"write {G:#x} 1")
    return world


@pytest.mark.parametrize("page_shift", [12, 16])
@pytest.mark.parametrize(
    ("host", "guest", "expected"),
    [
        (21, 16, 0),  # base page
        (21, 21, 21),
        (21, 30, 21),
        (30, 16, 0),
        (30, 21, 0),  # 2 MiB only if the guest's page is larger than that
        (30, 30, 30),
        (0, 30, 0),
    ],
)
def test_10_the_shadow_leaf_is_as_large_as_both_allow(
    page_shift: int, host: int, guest: int, expected: int
) -> None:
    world = world_with(host, page_shift)
    at = (1 << page_shift) if guest > page_shift else 0
    world.run(f"map 1 {NGPA:#x} {G:#x} {SIZES[guest]} rwxRC", f"load 1 {NGPA + at + 8:#x}")
    assert world.host_shift(G + at) == (host or page_shift)
    assert world.shadow_shift(1, NGPA + at) == (expected or page_shift)
    host_pte, pte = world.host(G + at), world.shadow(1, NGPA + at)
    assert host_pte is not None
    assert pte is not None
    inside = at if (host or page_shift) > (expected or page_shift) else 0
    assert pte & RPN == (host_pte & RPN) + inside


@pytest.mark.parametrize("host", [21, 30])
@pytest.mark.parametrize("page", [0, 1, 15, 16, 30, 31])
def test_10_a_base_leaf_over_a_huge_host_page_maps_the_very_page(host: int, page: int) -> None:
    world = world_with(host)
    at = (1 << host) - (32 << 16) + (page << 16)
    world.run(f"map 1 {NGPA:#x} {G + at:#x} 64K rwxRC", f"load 1 {NGPA:#x}")
    pte, host_pte = world.shadow(1, NGPA), world.host(G + at)
    assert pte is not None
    assert host_pte is not None
    assert pte & RPN == (host_pte & RPN) + at


@pytest.mark.parametrize("page_shift", [12, 16])
def test_10_the_entry_is_at_the_start_of_the_host_leaf(page_shift: int) -> None:
    world = world_with(21, page_shift)
    at = 3 << 16
    world.run(f"map 1 {NGPA:#x} {G + at:#x} 64K rwxRC", f"load 1 {NGPA:#x}")
    assert world.chain(G) == ("single", ((1, NGPA),))
    assert world.chain(G + at) is None


def test_10_the_entry_names_the_start_of_a_large_shadow_leaf() -> None:
    world = world_with(21)
    world.run(f"map 1 {NGPA:#x} {G:#x} 2M rwxRC", f"load 1 {NGPA + 0x5_0000:#x}")
    assert world.chain(G) == ("single", ((1, NGPA),))


def test_18_one_invalidation_of_a_huge_host_leaf_takes_all_that_was_made_from_it() -> None:
    world = world_with(21)
    for lpid, page in ((1, 0), (2, 5), (3, 31)):
        at = page << 16
        world.run(f"map {lpid} {NGPA:#x} {G + at:#x} 64K rwxRC", f"load {lpid} {NGPA:#x}")
    assert world.chain(G) == ("list", ((3, NGPA), (2, NGPA), (1, NGPA)))
    world.run(f"discard {G:#x} {M:#x}")
    assert world.host(G) is None is world.chain(G)
    assert [world.shadow(lpid, NGPA) for lpid in (1, 2, 3)] == [None] * 3


def test_18_a_discard_of_one_base_page_of_a_huge_page_splits_it_first() -> None:
    world = world_with(21)
    world.run(f"write {G + M - 0x10000:#x} 7")
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rwxRC", f"load 1 {NGPA:#x}")
    world.run(f"discard {G + 0x10000:#x} 0x10000")
    assert world.host(G) is None is world.shadow(1, NGPA)
    world.run(f"map 1 {NGPA:#x} {G + M - 0x10000:#x} 64K rwxRC")
    assert world.run(f"load 1 {NGPA:#x}").value == 7
    assert world.host_shift(G + M - 0x10000) == 16


@pytest.mark.parametrize(("host", "gpa_off", "shift"), [(21, M, 21), (30, M, 16), (30, G, 30)])
def test_3_a_host_leaf_is_huge_only_where_gpa_and_hva_agree(
    host: int, gpa_off: int, shift: int
) -> None:
    world = World()
    world.run(f"slot 1 {G + gpa_off:#x} {2 * G:#x} 0x200040000000 0")
    world.run(f"collapse {G + gpa_off:#x} {SIZES[host]}")
    world.run(f"map 1 {NGPA:#x} {G + gpa_off:#x} 64K rwxRC", f"store 1 {NGPA:#x} 9")
    assert world.host_shift(G + gpa_off) == shift


def test_3_a_part_of_a_huge_page_gets_its_own_real_address() -> None:
    world = World()
    world.run(f"slot 1 {G + 0x10000:#x} {2 * G:#x} 0x200040000000 0")
    world.run(f"collapse {G + 0x10000:#x} 2M", f"write {G + 0x10000:#x} 5")
    world.run(f"write {G + 0x20000:#x} 6")
    for page in (1, 2):
        at = page << 16
        world.run(f"map 1 {NGPA + at:#x} {G + at:#x} 64K rwxRC", f"load 1 {NGPA + at:#x}")
    first, second = world.host(G + 0x10000), world.host(G + 0x20000)
    assert first is not None
    assert second is not None
    assert (second & RPN) - (first & RPN) == 0x10000
    assert world.run(f"load 1 {NGPA + 0x20000:#x}").value == 6


def test_3_a_slot_that_logs_gets_base_pages_only() -> None:
    world = world_with(21)
    world.run("slotflags 1 1")
    world.run(f"map 1 {NGPA:#x} {G:#x} 2M rwxRC", f"store 1 {NGPA + 0x3_0000:#x} 1")
    assert world.host_shift(G + 0x3_0000) == 16 == world.shadow_shift(1, NGPA + 0x3_0000)


def test_3_an_entry_of_a_leaf_that_begins_before_its_slot_goes_before_the_array() -> None:
    """Finding 0003."""
    world = World()
    world.run(f"slot 1 {G + 0x10000:#x} {2 * G:#x} 0x200040010000 0")
    world.model.kvm.memory.huge[21] = {0x2000_4000_0000 >> 21: 1024}
    world.run(f"map 1 {NGPA:#x} {G + 0x10000:#x} 64K rwxRC")
    with pytest.raises(HostDamageError, match=r"1 words before it .*finding 0003"):
        world.run(f"load 1 {NGPA:#x}")


@pytest.mark.parametrize(("shift", "harmless"), [(21, True), (30, False)])
def test_18_a_leaf_that_ends_behind_its_slot_reads_behind_the_array(
    shift: int, harmless: bool
) -> None:
    """The array's last page is zeros to its end: 2 MiB leaves do not get past it."""
    world = World()
    world.run(f"slot 1 0x40000000 0x10000 {1 << 45:#x} 0")
    world.model.kvm.memory.huge[shift] = {1 << 45 - shift: 1 << 20}
    world.run(f"map 1 {NGPA:#x} 0x40000000 64K rwxRC", f"load 1 {NGPA:#x}")
    assert world.host_shift(0x4000_0000) == shift
    if harmless:
        world.run("protect 0x40000000 0x10000 ro")
        assert world.host(0x4000_0000) is None
        assert world.shadow(1, NGPA) is None
    else:
        with pytest.raises(HostDamageError, match="finding 0003"):
            world.run("protect 0x40000000 0x10000 ro")


def test_11_a_base_page_replaces_a_large_shadow_leaf_and_leaves_its_entry_stale() -> None:
    world = world_with(21)
    world.run(f"map 1 {NGPA:#x} {G:#x} 2M rRC", f"load 1 {NGPA:#x}")
    assert world.shadow_shift(1, NGPA) == 21
    world.run(f"map 1 {NGPA + 0x10000:#x} {G + 0x10000:#x} 64K rwRC")
    assert world.run(f"store 1 {NGPA + 0x10000:#x} 3").ret == 0xC00
    assert world.shadow_shift(1, NGPA + 0x10000) == 16
    assert world.shadow(1, NGPA) is None
    assert world.chain(G) == ("list", ((1, NGPA + 0x10000), (1, NGPA)))


@pytest.mark.parametrize("page_shift", [12, 16])
def test_12_a_large_shadow_leaf_replaces_a_table_and_leaves_its_entries_stale(
    page_shift: int,
) -> None:
    world = world_with(21, page_shift)
    for page in (0, 1):
        at = page << 16
        world.run(f"map 1 {NGPA + at:#x} {G + at:#x} 64K rRC", f"load 1 {NGPA + at:#x}")
    world.run(f"map 1 {NGPA:#x} {G:#x} 2M rwRC", f"store 1 {NGPA + 0x20000:#x} 3")
    assert world.shadow_shift(1, NGPA) == 21
    nested = world.nested(1)
    assert nested is not None
    assert [leaf.shift for leaf in nested.leaves if leaf.address >= NGPA] == [21]
    assert world.model.kvm.nested[1].shadow.pte_tables == {0}  # the payload's only
    assert world.chain(G) == ("list", ((1, NGPA + 0x10000), (1, NGPA)))


def test_12_a_1g_shadow_leaf_replaces_tables_of_two_levels() -> None:
    world = world_with(30)
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rRC", f"load 1 {NGPA:#x}")
    world.run(f"map 1 {NGPA:#x} {G:#x} 1G rwRC", f"store 1 {NGPA + M:#x} 3")
    assert world.shadow_shift(1, NGPA) == 30
    shadow = world.model.kvm.nested[1].shadow
    assert (shadow.pmd_tables, shadow.pte_tables) == ({0}, {0})


def test_11_and_12_a_1g_shadow_leaf_is_replaced_again() -> None:
    world = world_with(30)
    world.run(f"map 1 {NGPA:#x} {G:#x} 1G rRC", f"load 1 {NGPA:#x}")
    world.run(f"map 1 {NGPA + M:#x} {G + M:#x} 2M rwRC", f"store 1 {NGPA + M:#x} 3")
    assert world.shadow_shift(1, NGPA + M) == 16
    assert world.shadow(1, NGPA) is None


@pytest.mark.parametrize("host", [21, 30])
def test_9_more_permission_is_added_to_a_large_leaf(host: int) -> None:
    world = world_with(host)
    world.run(f"map 1 {NGPA:#x} {G:#x} {SIZES[host]} rR", f"load 1 {NGPA:#x}")
    before = world.chain(G)
    world.run(f"map 1 {NGPA:#x} {G:#x} {SIZES[host]} rwRC", f"store 1 {NGPA:#x} 1")
    assert world.shadow_flags(1, NGPA) == 0x186
    assert world.shadow_shift(1, NGPA) == host
    assert world.chain(G) == before


@pytest.mark.parametrize("ap", [5, 1, 2])
def test_15_a_tlbie_of_any_size_takes_a_large_leaf_that_it_touches(ap: int) -> None:
    world = world_with(21)
    world.run(f"map 1 {NGPA:#x} {G:#x} 2M rwRC", f"load 1 {NGPA:#x}")
    epn = (NGPA + 0x30000) >> 12
    world.run(f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap={ap} epn={epn:#x}")
    assert world.shadow(1, NGPA) is None


def test_15_a_2m_tlbie_steps_over_leaves_of_both_sizes() -> None:
    world = world_with(21)
    world.run(f"collapse {G + M:#x} 2M", f"write {G + M:#x} 1")
    world.run(f"map 1 {NGPA:#x} {G:#x} 2M rwRC", f"load 1 {NGPA:#x}")
    world.run(f"map 1 {NGPA + M:#x} {G + M:#x} 2M rwRC", f"load 1 {NGPA + M:#x}")
    world.run(f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=1 epn={NGPA >> 12:#x}")
    assert [world.shadow(1, NGPA + at) is not None for at in (0, M)] == [False, True]


@pytest.mark.parametrize("place", ["pud_table", "pmd_table"])
def test_13_a_large_leaf_needs_no_table_below_itself(place: str) -> None:
    far = 0x8_0000_0000_0000
    world = world_with(21)
    world.run(f"map 1 {far:#x} {G:#x} 2M rwRC", f"map 1 {NGPA:#x} {G:#x} 2M rwRC")
    world.run(f"load 1 {NGPA:#x}")
    assert world.run(f"load 1 {far:#x}", observed=Observations((place,))).ret == 0xE00
    assert world.shadow(1, far) is None
    world.run(f"load 1 {far:#x}")
    assert world.shadow_shift(1, far) == 21
    assert far >> 21 not in world.model.kvm.nested[1].shadow.pte_tables


def test_13_a_1g_leaf_needs_no_pmd_table() -> None:
    far = 0x8_0000_0000_0000
    world = world_with(30)
    world.run(f"map 1 {far:#x} {G:#x} 1G rwRC", f"load 1 {far:#x}")
    assert far >> 30 not in world.model.kvm.nested[1].shadow.pmd_tables


def logged_then_huge(world: World, page: int) -> None:
    """Base-page host leaves under a huge host page: logging ends while a fault is under way."""
    world.run("slotflags 1 1")
    at = page << 16
    world.run(f"map 1 {NGPA:#x} {G + at:#x} 64K rwxRC", f"store 1 {NGPA:#x} 1")
    kvm = world.model.kvm
    slot = next(memslot for memslot in kvm.memslots if memslot.id == 1)
    slot.flags = 0  # visible to faults before the commit flushes the slot
    world.run(f"map 2 {NGPA:#x} {G + M - 0x10000:#x} 64K rwxRC")


def test_22_a_huge_host_leaf_replaces_a_table_and_the_chains_stay() -> None:
    """Suspected defect (finding 0006): the shadow leaf outlives its host leaf's removal."""
    world = world_with(21)
    logged_then_huge(world, 2)
    world.run(f"load 2 {NGPA:#x}")
    assert world.host_shift(G) == 21
    assert world.chain(G + 0x20000) == ("single", ((1, NGPA),))
    assert world.shadow(1, NGPA) is not None


def test_18_a_huge_host_leaf_goes_with_the_chains_of_all_its_gfns() -> None:
    world = world_with(21)
    logged_then_huge(world, 2)
    world.run(f"load 2 {NGPA:#x}")
    assert world.chain(G + 0x20000) is not None  # not under the leaf's first gfn
    world.run(f"discard {G:#x} 0x200000")
    assert world.chain(G + 0x20000) is None
    assert world.shadow(1, NGPA) is None


def test_22_the_chain_of_the_gfn_with_the_number_of_the_host_page_is_emptied() -> None:
    """The other half of finding 0006: a gfn that has nothing to do with it loses its chain."""
    world = world_with(21)
    world.run("write 0x900000 1", "map 3 0x1000000 0x900000 64K rwxRC", "load 3 0x1000000")
    assert world.chain(0x90_0000) == ("single", ((3, 0x100_0000),))
    logged_then_huge(world, 2)
    pte = world.host(G + 0x20000)
    assert pte is not None
    observed = Observations(host_pages={(pte & RPN) >> 16: 0x90})
    world.run(f"load 2 {NGPA:#x}", observed=observed)
    assert world.host_shift(G) == 21
    assert world.chain(0x90_0000) is None
    assert world.shadow(3, 0x100_0000) is not None  # I1 is broken


def test_22_a_base_page_replaces_a_huge_host_leaf_with_all_that_was_made_from_it() -> None:
    world = world_with(21)
    for lpid, page in ((1, 0), (2, 5)):
        world.run(f"map {lpid} {NGPA:#x} {G + (page << 16):#x} 64K rRC", f"load {lpid} {NGPA:#x}")
    assert world.host_shift(G) == 21
    kvm = world.model.kvm
    slot = next(memslot for memslot in kvm.memslots if memslot.id == 1)
    slot.flags, slot.dirty = 1, set()  # logging begins, the flush has not come yet
    kvm.pgtable.change(G, 21, kvm.pgtable.find(G)[0] & ~2)  # so that a store faults on it
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rwxRC", f"store 1 {NGPA:#x} 5")
    assert world.host_shift(G) == 16
    assert world.shadow(2, NGPA) is None
    assert world.chain(G) == ("single", ((1, NGPA),))
    assert slot.dirty >= set(range(32))
