"""One test or more for each transition of the specification, by its number.

Those of a tlbie (15, 16) are in test_tlbie.py, of the notifier (18) in test_notifier.py.
Guest pages: 0x900000 and up. Nested addresses: 0x1000000 and up. On a host
with 64K pages unless the test says otherwise.
"""

import pytest

from nestscope.sim.create import create_pte
from nestscope.sim.errors import HostDamageError, UnmodelledError
from nestscope.sim.facts import Observations
from nestscope.sim.nested_cpu import NESTED_MSR
from nestscope.sim.rmap import pack
from nestscope.sim.steps import drain

from .world import PTE, World

R, C, W, READ, X = 0x100, 0x80, 2, 4, 1
ALL = READ | W | X | R | C
N, G = 0x100_0000, 0x90_0000
RPN = 0x01FF_FFFF_FFFF_F000
NOHPTE, PROTFAULT, ISSTORE, UNSUPP, PRTABLE, SET_RC = (
    0x4000_0000,
    0x0800_0000,
    0x0200_0000,
    0x0008_0000,
    0x0002_0000,
    0x0004_0000,
)


def test_1_without_a_guest_translation_the_fault_goes_to_the_guest() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC")
    result = world.run("load 1 0x7000008")
    assert (result.ret, result.hdsisr, result.hdar, result.asdr) == (
        0xE00,
        NOHPTE,
        0x700_0008,
        0x700_0008,
    )
    assert world.shadow(1, 0x700_0000) is None


def test_1_a_store_keeps_isstore() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rxRC")
    assert world.run("store 1 0x7000000 1").hdsisr == NOHPTE | ISSTORE
    assert world.run(f"store 1 {N:#x} 1").hdsisr == PROTFAULT | ISSTORE


def test_1_a_load_without_read_permission_is_a_protection_fault() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K xRC")
    assert world.run(f"load 1 {N:#x}").hdsisr == PROTFAULT


def test_1_a_fetch_reports_in_the_msr_and_leaves_hdsisr() -> None:
    world = World()
    world.run(f"code {G:#x}", f"map 1 {N:#x} {G:#x} 64K rwRC")
    result = world.run(f"fetch 1 {N:#x}")
    assert (result.ret, result.hdsisr, result.asdr, result.nip) == (0xE20, 0, N, N)
    assert result.msr is not None
    assert result.msr & 0x7FFF_0000 == 0x1000_0000


def test_1_a_protection_fault_on_a_shadow_leaf_removes_it_when_the_guest_forbids() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rxRC", f"load 1 {N:#x}")
    assert world.shadow(1, N) is not None
    assert world.run(f"store 1 {N:#x} 1").ret == 0xE00
    assert world.shadow(1, N) is None
    assert world.chain(G) == ("single", ((1, N),))


@pytest.mark.parametrize("visible", [True, False])
def test_1_a_fetch_removes_the_leaf_only_if_the_host_sees_the_cause(visible: bool) -> None:
    world = World(hisi_flags_visible=visible)
    world.run(f"code {G:#x}", f"map 1 {N:#x} {G:#x} 64K rwRC", f"load 1 {N:#x}")
    assert world.run(f"fetch 1 {N:#x}").ret == 0xE20
    assert (world.shadow(1, N) is None) == visible


@pytest.mark.parametrize(("visible", "msr"), [(True, 0x8000_0000_0010_1001), (False, NESTED_MSR)])
def test_1_a_hypercall_of_the_nested_guest_shows_its_level_where_the_isa_has_it(
    visible: bool, msr: int
) -> None:
    world = World(system_call_level_visible=visible)
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC")
    result = world.run(f"load 1 {N:#x}")
    assert (result.ret, result.msr) == (0xC00, msr)


def test_1_a_root_of_another_geometry_is_unsupported() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC")
    at = 0x4_0000 + 16
    word = world.guest.words[at]
    world.model.step(world.guest.tables.write_word(at, word & ~0x1F | 12))
    result = world.run(f"load 1 {N:#x}")
    assert (result.ret, (result.msr or 0) & 0x7FFF_0000) == (0xE20, UNSUPP)


def test_1_a_table_outside_guest_memory_is_a_table_fault_with_its_address() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC")
    at = world.guest.roots[1] + 8
    world.model.step(world.guest.tables.write_word(at, 1 << 63 | 0x4000_0000 | 9))
    result = world.run("load 1 0x8040000000")
    assert (result.ret, result.hdsisr, result.asdr) == (0xE00, PRTABLE, 0x4000_0000 + 8)


def test_1_the_entry_of_a_nested_guest_that_is_not_there_gives_back_the_raw_fault() -> None:
    world = World()
    result = world.run("load 5 0x1000000")
    assert (result.ret, result.asdr, result.nip) == (0xE20, 0, 0)


def test_2_missing_r_in_the_guest_leaf_goes_to_the_guest() -> None:
    world = World(rc_by_hardware=False)
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxC")
    result = world.run(f"load 1 {N:#x}")
    assert (result.ret, result.hdsisr) == (0xE00, SET_RC)


def test_2_a_store_sets_c_in_the_shadow_leaf() -> None:
    world = World(rc_by_hardware=False)
    world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N:#x}")
    assert world.shadow_flags(1, N) == READ | W | X | R
    assert world.run(f"store 1 {N:#x} 1").ret == 0xC00
    assert world.shadow_flags(1, N) == ALL


def test_2_a_store_without_c_in_the_guest_leaf_goes_to_the_guest() -> None:
    world = World(rc_by_hardware=False)
    world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rwxR", f"load 1 {N:#x}")
    assert world.run(f"store 1 {N:#x} 1").hdsisr == SET_RC | ISSTORE
    assert world.shadow_flags(1, N) == READ | W | X | R


def test_2_hardware_that_writes_r_and_c_asks_nobody() -> None:
    world = World(rc_by_hardware=True)
    world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rwx")
    assert world.run(f"load 1 {N:#x}").ret == 0xC00
    assert world.shadow_flags(1, N) == READ | W | X | R
    assert world.run(f"store 1 {N:#x} 1").ret == 0xC00
    assert world.shadow_flags(1, N) == ALL


def test_3_a_read_of_an_absent_page_maps_the_zero_page_read_only() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC")
    assert world.run(f"load 1 {N:#x}").value == 0
    assert (world.host(G) or 0) & 0xFFF == READ | X | R


def test_3_all_absent_pages_share_one_zero_page() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rRC", f"map 1 0x2000000 {G + 0x10000:#x} 64K rRC")
    world.run(f"load 1 {N:#x}", "load 1 0x2000000")
    assert world.host(G) == world.host(G + 0x10000)


def test_3_a_page_that_the_vmm_has_written_is_mapped_for_writing_even_for_a_load() -> None:
    world = World()
    world.run(f"write {G:#x} 0x55", f"map 1 {N:#x} {G:#x} 64K rwxRC")
    assert world.run(f"load 1 {N:#x}").value == 0x55
    assert (world.host(G) or 0) & 0xFFF == ALL


def test_3_a_store_over_the_zero_page_replaces_the_host_leaf() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N:#x}")
    zero = world.host(G)
    assert world.run(f"store 1 {N:#x} 7").ret == 0xC00
    assert (world.host(G) or 0) & 0xFFF == ALL
    assert (world.host(G) or 0) >> 16 != (zero or 0) >> 16
    assert world.run(f"load 1 {N:#x}").value == 7


def test_4_the_first_shadow_leaf_of_a_page_makes_a_single_entry() -> None:
    world = World()
    world.run(f"map 3 {N:#x} {G:#x} 64K rwxRC", f"load 3 {N + 0x128:#x}")
    assert world.chain(G) == ("single", ((3, N),))


def test_5_the_second_makes_a_list_with_the_newest_first() -> None:
    world = World()
    for lpid in (3, 2):
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC", f"load {lpid} {N:#x}")
    assert world.chain(G) == ("list", ((2, N), (3, N)))


def test_6_further_ones_go_to_the_head() -> None:
    world = World()
    world.run(f"map 3 {N:#x} {G:#x} 64K rwxRC", f"load 3 {N:#x}")
    world.run(f"map 2 {N:#x} {G:#x} 64K rwxRC", f"load 2 {N:#x}")
    world.run(f"map 3 0x2000000 {G:#x} 64K rwxRC", "load 3 0x2000000")
    assert world.chain(G) == ("list", ((3, 0x200_0000), (2, N), (3, N)))


def test_7_an_entry_that_is_there_is_not_added_again() -> None:
    world = World()
    for lpid in (3, 2):
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC", f"load {lpid} {N:#x}")
    world.run("tlbie ric=0 prs=0 r=1 is=0 lpid=3 ap=5 epn=0x1000", f"load 3 {N:#x}")
    assert world.shadow(3, N) is not None
    assert world.chain(G) == ("list", ((2, N), (3, N)))


def test_8_the_same_leaf_again_changes_nothing() -> None:
    """Two vCPUs fault at once: the second finds the leaf of the first, and enters nothing."""
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N:#x}")
    kvm = world.model.kvm
    shadow, memslot = kvm.nested[1].shadow, kvm.memslots[0]
    before = shadow.find(N)
    memslot.rmap.clear()
    entry = (memslot, G >> 16, pack(1, N))
    assert drain(create_pte(kvm, shadow, before[0], N, 16, kvm.mmu_invalidate_seq, entry)) == 0
    assert shadow.find(N) == before
    assert memslot.rmap == {}


def test_9_more_permission_is_added_to_the_leaf_and_the_chain_stays() -> None:
    world = World()
    world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rR", f"load 1 {N:#x}")
    assert world.shadow_flags(1, N) == READ | R
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"store 1 {N:#x} 5")
    assert world.shadow_flags(1, N) == ALL
    assert world.chain(G) == ("single", ((1, N),))


def remapped_in_place() -> World:
    """A leaf that permits only execution gains another page and the permission to read."""
    world = World()
    world.run(f"code {G:#x}", f"write {G + 0x10000:#x} 1")
    world.run(f"map 1 {N:#x} {G:#x} 64K xR", f"fetch 1 {N:#x}")
    world.run(f"map 1 {N:#x} {G + 0x10000:#x} 64K rxRC")
    return world


def frame(pte: int | None) -> int:
    assert pte is not None
    return (pte & RPN) >> 16


def test_9_another_page_is_ored_into_a_leaf() -> None:
    """Finding 0002: a frame that stands for the OR of two; no entry for the second page."""
    world = remapped_in_place()
    first = frame(world.host(G))
    result = world.run(f"load 1 {N:#x}")
    assert (result.ret, result.value) == (0xC00, None)
    mixed, second = frame(world.shadow(1, N)), frame(world.host(G + 0x10000))
    assert world.model.mixed == {mixed: (first, second)}
    assert mixed not in (first, second)
    assert world.model.mixed_leaves() == {(1, N)}
    assert world.shadow_flags(1, N) == 0x105
    assert world.chain(G) == ("single", ((1, N),))
    assert world.chain(G + 0x10000) is None


def test_9_a_mixed_leaf_survives_the_removal_of_both_pages() -> None:
    world = remapped_in_place()
    world.run(f"load 1 {N:#x}", f"discard {G:#x} 0x20000")
    assert world.shadow(1, N) is not None
    world.run(f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn={N >> 12:#x}")
    assert world.shadow(1, N) is None


@pytest.mark.parametrize(("numbers", "survives"), [((3, 4), True), ((3, 1), False)])
def test_9_the_or_of_two_pages_may_be_one_of_them(numbers: tuple[int, int], survives: bool) -> None:
    """Its removal is found by the host's own numbers: 3 | 1 is 3."""
    world = remapped_in_place()
    world.run(f"load 1 {N:#x}")
    pages = frame(world.host(G)), frame(world.host(G + 0x10000))
    world.model.host_pages = dict(zip(pages, numbers, strict=True))
    world.run(f"discard {G:#x} 0x10000")
    assert (world.shadow(1, N) is not None) is survives


def test_9_a_store_through_a_mixed_leaf_damages_the_host() -> None:
    world = remapped_in_place()
    world.run(f"load 1 {N:#x}", f"map 1 {N:#x} {G:#x} 64K rwxRC")
    with pytest.raises(HostDamageError, match="finding 0002"):
        world.run(f"store 1 {N:#x} 5")


@pytest.mark.parametrize("place", ["retry", "rmap_node"])
def test_13_a_retry_and_a_missing_node_only_cost_another_fault(place: str) -> None:
    calm, troubled = World(), World()
    for world in (calm, troubled):
        world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rwxRC", "load 1 0x7000000")
    calm.run(f"load 1 {N:#x}")
    result = troubled.run(f"load 1 {N:#x}", observed=Observations((place,)))
    assert result.ret == 0xC00
    assert troubled.chain(G) == calm.chain(G) == ("single", ((1, N),))


@pytest.mark.parametrize(
    ("place", "tables"), [("pud_table", (0, 0)), ("pmd_table", (1, 0)), ("pte_table", (1, 1))]
)
def test_13_a_table_that_cannot_be_had_ends_the_entry_and_keeps_the_tables_above(
    place: str, tables: tuple[int, int]
) -> None:
    far = 0x8_0100_0000_0000
    world = World()
    world.run(f"map 1 {far:#x} {G:#x} 64K rwxRC", f"map 1 {N:#x} {G:#x} 64K rwxRC")
    world.run(f"load 1 {N:#x}")  # host leaf and payload are there
    shadow = world.model.kvm.nested[1].shadow
    before = len(shadow.pud_tables), len(shadow.pmd_tables)
    result = world.run(f"load 1 {far:#x}", observed=Observations((place,)))
    assert (result.ret, result.hdsisr) == (0xE00, NOHPTE)
    after = len(shadow.pud_tables), len(shadow.pmd_tables)
    assert (after[0] - before[0], after[1] - before[1]) == tables
    assert world.shadow(1, far) is None
    assert world.chain(G) == ("single", ((1, N),))


def test_13_a_failure_that_never_struck_is_an_error() -> None:
    world = World()
    with pytest.raises(UnmodelledError, match="no place"):
        world.run("load 1 0", observed=Observations(("rmap_node",)))


@pytest.mark.parametrize(
    ("guest", "load", "store"),
    [
        ("rwxRC", READ | W | X | R, ALL),
        ("rwxR", READ | W | X | R, READ | W | X | R),
        ("rwxC", READ | W | X, READ | W | X | C),
        ("rxRC", READ | X | R, None),
        ("rwRC", READ | W | R, READ | W | R | C),
    ],
)
def test_14_the_shadow_leaf_is_the_host_leaf_less_what_the_guest_lacks(
    guest: str, load: int, store: int | None
) -> None:
    for verb, flags in ((f"load 1 {N:#x}", load), (f"store 1 {N:#x} 1", store)):
        if flags is None:
            continue
        world = World()
        world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K {guest}", verb)
        by_hardware = R | (C if "store" in verb else 0)
        assert world.shadow_flags(1, N) == flags | by_hardware
        assert (world.shadow(1, N) or 0) & ~0xFFF == (world.host(G) or 0) & ~0xFFF


def test_14_c_is_not_given_to_a_load() -> None:
    world = World()
    world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N:#x}")
    assert (world.host(G) or 0) & C
    assert not (world.shadow(1, N) or 0) & C


def test_14_a_2m_guest_leaf_over_base_host_pages_is_entered_page_by_page() -> None:
    world = World()
    world.run("map 1 0x40000000 0xa00000 2M rwxRC", "load 1 0x40030000", "load 1 0x40000000")
    nested = world.nested(1)
    assert nested is not None
    assert [leaf.address for leaf in nested.leaves] == [0, 0x4000_0000, 0x4003_0000]
    assert world.chain(0xA3_0000) == ("single", ((1, 0x4003_0000),))


def test_a_4k_guest_leaf_is_refused_by_a_64k_host_with_the_fault_as_it_was() -> None:
    world = World(page_shift=16)
    world.run(f"map 1 0x9000000 {G:#x} 4K rwxRC")
    result = world.run("store 1 0x9000000 1")
    assert (result.ret, result.hdsisr) == (0xE00, NOHPTE | ISSTORE)
    assert world.chain(G) is None


def test_a_64k_guest_leaf_on_a_4k_host_is_entered_page_by_page() -> None:
    world = World(page_shift=12)
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N + 0x3000:#x}")
    assert world.chain(G + 0x3000) == ("single", ((1, N + 0x3000),))
    assert world.chain(G) is None


def shadows(world: World, lpid: int, pages: int) -> list[bool]:
    return [world.shadow(lpid, N + i * 0x10000) is not None for i in range(pages)]


def mapped(pages: int, lpids: tuple[int, ...] = (1,)) -> World:
    world = World()
    for lpid in lpids:
        for i in range(pages):
            world.run(f"map {lpid} {N + i * 0x10000:#x} {G + i * 0x10000:#x} 64K rwxRC")
            world.run(f"load {lpid} {N + i * 0x10000:#x}")
    return world


def test_16_ric_2_reads_the_partition_table_entry_again() -> None:
    world = mapped(1)
    entry = 0x4_0000 + 16
    word = world.guest.words[entry]
    world.model.step(world.guest.tables.write_word(entry, word | 1 << 62))
    assert world.vm.nested[0].l1_gr_to_hr == word
    world.run("tlbie ric=2 prs=0 r=1 is=2 lpid=1 ap=0 epn=0")
    assert world.vm.nested[0].l1_gr_to_hr == word | 1 << 62
    assert len(world.vm.nested[0].leaves) == 0


@pytest.mark.parametrize("is_", [2, 3])
def test_16_ric_2_with_a_cleared_entry_drops_the_nested_guest(is_: int) -> None:
    world = mapped(1, (1, 2))
    world.model.step(world.guest.tables.write_word(0x4_0000 + 16, 0))
    world.run(f"tlbie ric=2 prs=0 r=1 is={is_} lpid=1 ap=0 epn=0")
    assert [n.l1_lpid for n in world.vm.nested] == [2]
    assert world.chain(G) == ("list", ((2, N), (1, N)))


def test_16_the_lpid_of_a_dropped_nested_guest_is_free_again() -> None:
    world = mapped(1, (1, 2))
    world.run("drop 1", "load 7 0")
    assert [(n.l1_lpid, n.shadow_lpid) for n in world.vm.nested] == [(2, 3), (7, 2)]


def test_23_entering_makes_the_nested_guest_with_the_lowest_free_lpid() -> None:
    world = World()
    world.run("load 9 0", "load 4 0")
    assert world.vm.lpid == 1
    assert [(n.l1_lpid, n.shadow_lpid, n.refcnt) for n in world.vm.nested] == [
        (4, 3, 1),
        (9, 2, 1),
    ]


def test_23_an_lpid_beyond_the_partition_table_is_refused() -> None:
    world = World()
    assert world.run("load 4096 0").ret == 2**64 - 4
    assert world.vm.nested == ()
    world.run("ptcr 0x40000")
    assert world.run("load 256 0").ret == 2**64 - 4
    assert world.run("load 255 0").ret == 0xE20


def test_23_without_a_partition_table_nothing_is_entered() -> None:
    world = World(start=False)
    assert world.run("load 1 0").ret == 3
    assert world.vm.nested == ()


def test_24_the_ptcr_is_kept_and_nested_guests_keep_what_they_have() -> None:
    world = mapped(1)
    before = world.vm.nested
    world.run("ptcr 0x40003")
    assert world.vm.l1_ptcr == 0x4_0003
    after = world.vm.nested
    assert [(n.l1_lpid, n.l1_gr_to_hr, len(n.leaves)) for n in after] == [
        (n.l1_lpid, n.l1_gr_to_hr, len(n.leaves)) for n in before
    ]


@pytest.mark.parametrize("ptcr", ["0x40005", "0x4001f", "0x10000000000"])
def test_24_a_table_too_large_or_outside_memory_is_refused(ptcr: str) -> None:
    world = World()
    assert world.run(f"ptcr {ptcr}").ret == 2**64 - 4
    assert world.vm.l1_ptcr == 0x4_0004


def test_the_guests_own_pages_have_host_leaves_after_a_hypercall() -> None:
    world = World()
    assert [(leaf.address, leaf.pte & 0xFFF) for leaf in world.vm.host_leaves] == [
        (0x1_0000, ALL),
        (0x2_0000, ALL),
    ]
    assert all(leaf.pte & PTE == PTE for leaf in world.vm.host_leaves)


def test_13_a_leaf_computed_before_an_invalidation_is_not_entered() -> None:
    world = World()
    kvm = world.model.kvm
    before = kvm.mmu_invalidate_seq
    world.run(f"discard {G:#x} 0x10000")
    assert drain(create_pte(kvm, kvm.pgtable, PTE | G, G, 16, before)) == -11
    assert world.host(G) is None
    assert drain(create_pte(kvm, kvm.pgtable, PTE | G, G, 16, kvm.mmu_invalidate_seq)) == 0
    assert world.host(G) == PTE | G


def test_9_a_leaf_that_gains_bits_loses_none_and_is_not_entered_again() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxR", f"load 1 {N:#x}")
    kvm = world.model.kvm
    shadow, memslot = kvm.nested[1].shadow, kvm.memslots[0]
    before = shadow.find(N)[0]
    memslot.rmap.clear()
    entry = (memslot, G >> 16, pack(1, N))
    path = create_pte(kvm, shadow, before & ~R | C, N, 16, kvm.mmu_invalidate_seq, entry)
    assert drain(path) == 0
    assert shadow.find(N)[0] == before | C
    assert memslot.rmap == {}
