"""Nested guests and VMs end: transitions 16, 23, 25 and 26; what leaves memory (MMIO)."""

import pytest

from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import Access, CreateVm, DestroyVm, SwitchToHpt
from nestscope.sim.facts import Observations

from .world import PTCR, World

G, N = 0x90_0000, 0x100_0000
H_PARAMETER, EINVAL = 2**64 - 4, 2**64 - 22
RETIRED = "tlbie ric=2 prs=0 r=1 is=2 lpid=1 ap=0 epn=0"


def mapped(lpids: tuple[int, ...] = (1, 2), **facts: int) -> World:
    world = World(**facts)
    for lpid in lpids:
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC", f"store {lpid} {N:#x} 1")
    return world


def test_25_entries_of_a_dropped_nested_guest_lead_to_the_next_of_its_name() -> None:
    world = mapped()
    world.run("drop 1", f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N:#x}")
    assert world.chain(G) == ("list", ((2, N), (1, N)))  # found there: not entered again
    world.run(f"discard {G:#x} 0x10000")
    assert world.shadow(1, N) is None


def test_25_a_stale_entry_spares_the_next_of_its_name_if_it_maps_another_page() -> None:
    world = mapped()
    world.run("write 0x910000 1", "drop 1")
    world.run(f"map 1 {N:#x} 0x910000 64K rwxRC", f"load 1 {N:#x}", f"discard {G:#x} 0x10000")
    assert world.shadow(1, N) is not None
    assert world.shadow(2, N) is None


@pytest.mark.parametrize("place", ["nested_guest", "nested_idr"])
def test_23_without_memory_nothing_is_entered(place: str) -> None:
    world = mapped()
    before = world.vm.nested
    assert world.run("load 9 0x7000000", observed=Observations((place,))).ret == H_PARAMETER
    assert len(world.vm.nested) == len(before)
    assert world.model.kvm.lpids == {1, 2, 3}


def test_26_a_destroyed_vm_is_gone_and_the_next_one_begins_afresh() -> None:
    world = mapped()
    frames = world.model.kvm.memory.next_frame
    world.run("destroy")
    assert world.state.vms == ()
    with pytest.raises(UnmodelledError):
        world.model.step(Access(1, "load", N))
    world.run("create", PTCR, f"map 1 {N:#x} {G:#x} 64K rwxRC")
    assert world.run(f"load 1 {N:#x}").value == 0
    assert (world.vm.lpid, world.vm.nested[0].shadow_lpid) == (1, 2)
    assert min(leaf.pte >> 16 & 0xFFFF for leaf in world.vm.host_leaves if leaf.pte & 2) >= frames


def test_26_the_host_tree_of_a_destroyed_vm_goes_before_its_nested_guests() -> None:
    world = mapped()
    kvm = world.model.kvm
    for _ in world.model.path(DestroyVm()):
        if not kvm.nested:
            assert not kvm.pgtable.ptes
    assert not kvm.pgtable.ptes
    assert not kvm.pgtable.pud_tables


def test_26_two_vms_at_once_are_not_modelled() -> None:
    world = mapped()
    with pytest.raises(UnmodelledError, match="second VM"):
        world.model.step(CreateVm())


def test_26_the_switch_to_a_hash_table_frees_nested_guests_chains_and_the_host_tree() -> None:
    world = mapped(pseries=False)
    assert world.run("hpt").ret == 0
    vm = world.vm
    assert (vm.radix, vm.nested, len(vm.host_leaves), world.chains()) == (False, (), 0, [])
    assert world.model.kvm.lpids == {1}
    assert world.run("hpt").ret == 0
    with pytest.raises(UnmodelledError, match="hash page table"):
        world.run("load 1 0x1000000")
    world.run(f"discard {G:#x} 0x10000")


def test_26_radix_is_off_before_the_host_tree_goes_and_then_no_notifier_walks_it() -> None:
    """Linux commit 234ff0b729ad: a notifier must not find the mode on and the tree gone."""
    world = mapped(pseries=False)
    kvm = world.model.kvm
    leaves = dict(kvm.pgtable.ptes)
    walked = 0
    for _ in world.model.path(SwitchToHpt()):
        assert kvm.pgtable.ptes == leaves
        if not kvm.radix:
            world.run(f"discard {G:#x} 0x10000")
            assert kvm.pgtable.ptes == leaves
            walked += 1
    assert walked
    assert not kvm.pgtable.ptes


def test_26_a_host_that_is_itself_a_guest_has_radix_only() -> None:
    world = mapped()
    assert world.run("hpt").ret == EINVAL
    assert world.vm.radix is True
    assert world.shadow(1, N) is not None


def test_16_ric_2_for_all_frees_a_nested_guest_under_its_own_lock() -> None:
    """A defect of kernels without commit 51938dfa8a51: the lock is freed before it is released."""
    world = mapped()
    world.model.step(world.guest.tables.write_word(0x4_0010, 0))
    assert world.model.kvm.uses_after_free == []
    world.run("tlbie ric=2 prs=0 r=1 is=3 lpid=0 ap=0 epn=0")
    assert world.model.kvm.uses_after_free == [
        "mutex_unlock(tlb_lock): nested guest 1 was freed before"
    ]


def test_16_ric_2_for_one_holds_a_reference() -> None:
    world = mapped()
    world.model.step(world.guest.tables.write_word(0x4_0010, 0))
    world.run(RETIRED)
    assert world.model.kvm.uses_after_free == []
    assert [n.l1_lpid for n in world.vm.nested] == [2]


@pytest.mark.parametrize(("verb", "reads"), [("load", False), ("load", True), ("fetch", True)])
def test_an_instruction_that_the_host_cannot_load_is_tried_for_ever(verb: str, reads: bool) -> None:
    """Loading needs the process table of the nested guest, which runs in real mode."""
    world = World(reads_instructions=reads)
    world.run(f"map 1 {N:#x} 0x40000000 64K rwxRC")
    result = world.run(f"{verb} 1 {N:#x}")
    assert (result.ret, result.nip) == (0x980, N if verb == "fetch" else 0x0C)


def test_the_payload_may_go_and_nested_guests_then_find_no_instruction() -> None:
    world = mapped()
    world.run("discard 0x800000 0x10000")
    assert world.shadow(1, 0) is None
    result = world.run(f"load 1 {N:#x}")
    assert (result.ret, result.nip) == (0xE40, 0)
    assert world.shadow(1, 0) is not None


def test_what_runs_on_in_a_freed_payload_is_not_predicted() -> None:
    """Finding 0001: nested guest 1 still maps the page that the host took back."""
    world = World()
    for lpid in (1, 0, 2):
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC", f"load {lpid} {N:#x}")
    assert world.chain(0x80_0000) == ("list", ((2, 0), (0, 0), (1, 0)))
    world.run("discard 0x800000 0x10000")
    assert [world.shadow(lpid, 0) is not None for lpid in (0, 1, 2)] == [True, True, False]
    with pytest.raises(UnmodelledError, match="nobody knows"):
        world.run(f"load 1 {N:#x}")


@pytest.mark.parametrize(("order", "ret"), [(24, 0), (17, -22), (47, -22)])
def test_26_a_hash_table_of_any_size_switches_the_mode(order: int, ret: int) -> None:
    world = World(pseries=0)
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"load 1 {N:#x}")
    assert world.run(f"htab {order}").ret == ret & (1 << 64) - 1
    assert not world.vm.radix
    assert (world.vm.nested, world.chains()) == ((), [])
    world.run("radix")
    assert world.vm.radix
    assert world.run(f"load 1 {N:#x}").ret == 0xC00


def test_26_without_memory_for_the_hash_table_the_mode_is_switched_all_the_same() -> None:
    world = World(pseries=0)
    refused = world.run("htab 40", observed=Observations(failures=("htab",)))
    assert refused.ret == -12 & (1 << 64) - 1
    assert not world.vm.radix


def test_26_a_hypervisor_that_is_a_guest_itself_has_no_hash_table() -> None:
    world = World(pseries=1)
    assert world.run("htab 24").ret == -95 & (1 << 64) - 1
    assert world.vm.radix
