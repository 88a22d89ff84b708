"""`read_state`: everything readable is in the State, everything else is a problem with a path."""

from dataclasses import replace

import pytest

from nestscope.decoders.read_state import StateReader, read_state
from nestscope.decoders.state import Entry, KernelInfo, Leaf, State, Vm
from tests.decoders.kernel.kvm_world import RMAP, SOURCE, KvmWorld

WILD = 0xC000_0F00_0000_0000
SINGLE = 1 << 52 | 0x100_0000 | 1


def _read(kvm: KvmWorld) -> State:
    return read_state(kvm.world.physical, kvm.kernel(), SOURCE)


def _vm(state: State) -> Vm:
    (vm,) = state.vms
    return vm


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_a_vm_with_all_that_hangs_on_it(byteorder: str) -> None:
    kvm = KvmWorld("little" if byteorder == "little" else "big")
    kvm.rmap(17, SINGLE)
    kvm.rmap(20, kvm.node(SINGLE, 70 << 52 | 0x200_0000))
    state = _read(kvm)
    assert state.problems == ()
    assert state.source == SOURCE
    assert state.kernel == KernelInfo("6.12-test", 16)
    vm = _vm(state)
    assert (vm.kvm, vm.lpid, vm.radix, vm.mmu_lock_held) == (kvm.kvm, 1, True, False)
    assert vm.l1_ptcr == 0x40000
    assert list(vm.host_leaves) == [Leaf(0x10_0000, 16, 0xC000_0000_0030_0387)]
    (slot,) = vm.memslots
    assert (slot.id, slot.base_gfn, slot.npages, slot.flags) == (0, 16, 8, 1)
    assert slot.userspace_addr == 0x1000_0000_0000
    assert slot.rmap_array == RMAP
    assert [(chain.gfn, chain.form, chain.entries) for chain in slot.rmap] == [
        (17, "single", (Entry(1, 0x100_0000),)),
        (20, "list", (Entry(70, 0x200_0000), Entry(1, 0x100_0000))),
    ]
    assert [guest.l1_lpid for guest in vm.nested] == [1, 70]
    guest = vm.nested[1]
    assert (guest.shadow_lpid, guest.refcnt, guest.l1_gr_to_hr) == (170, 1, 0x50_0000)
    assert guest.process_table == 0x60_0000
    assert list(guest.leaves) == [Leaf(0x100_0000, 16, 0xC000_0000_0030_0307)]


def test_a_reader_reads_afresh_each_time() -> None:
    kvm = KvmWorld()
    reader = StateReader(kvm.kernel(), SOURCE)
    assert len(_vm(reader.read()).memslots[0].rmap) == 0
    kvm.rmap(17, SINGLE)
    assert len(_vm(reader.read()).memslots[0].rmap) == 1
    # The array moves to another page: no translation is kept from one read to the next.
    kvm.world.map_kernel(RMAP, 0x30_0000)
    assert len(_vm(reader.read()).memslots[0].rmap) == 0


@pytest.mark.parametrize(
    ("queued", "word", "held"),
    [
        (True, 0, False),
        (True, 1, True),
        (True, 3 << 17 | 1 << 16, False),  # waiters queue, nobody holds it
        (False, 0, False),
        (False, 0x8000_0001, True),
        (False, 0x8000_0000, True),
    ],
)
def test_either_kind_of_spinlock(queued: bool, word: int, held: bool) -> None:
    kvm = KvmWorld(queued_lock=queued)
    raw = "mmu_lock.rlock.raw_lock"
    kvm.world.set("kvm", kvm.kvm, f"{raw}.val" if queued else f"{raw}.slock", word)
    assert _vm(_read(kvm)).mmu_lock_held is held


def test_a_hash_page_table_vm_is_not_read_as_nested() -> None:
    kvm = KvmWorld()
    kvm.world.set("kvm", kvm.kvm, "arch.radix", 0)
    kvm.rmap(17, 0x8000_0000_0000_1235)  # KVMPPC_RMAP_PRESENT and an HPTE index
    state = _read(kvm)
    vm = _vm(state)
    assert vm.radix is False
    assert state.problems == ()
    assert len(vm.memslots) == 1
    assert len(vm.memslots[0].rmap) == len(vm.host_leaves) == len(vm.nested) == 0


def test_no_kvm_module_is_a_problem_of_the_list() -> None:
    kvm = KvmWorld()
    state = read_state(kvm.world.physical, replace(kvm.kernel(), module_symbols={}), SOURCE)
    assert state.vms == ()
    assert any(
        problem.path == "vms" and "load kvm" in problem.message for problem in state.problems
    )


def test_an_unreadable_vm_is_unknown_and_not_absent() -> None:
    kvm = KvmWorld()
    kvm.world.put(kvm.world.at("kvm", kvm.kvm, "vm_list"), WILD)
    state = _read(kvm)
    assert len(state.vms) == 2
    assert (state.vms[1].lpid, state.vms[1].radix) == (None, None)
    paths = {problem.path for problem in state.problems}
    assert paths == {"vms", "vms[1]"}
    assert list(state.vms[0].nested)


@pytest.mark.parametrize(
    ("struct", "member", "path"),
    [
        ("kvm", "arch.pgtable", "vms[0].host_leaves"),
        ("kvm", "memslots[0]", "vms[0].memslots"),
        ("kvm", "arch.kvm_nested_guest_idr.idr_rt.xa_head", "vms[0].nested"),
        ("kvm_memory_slot", "arch.rmap", "vms[0].memslots[0].rmap"),
        ("kvm_nested_guest", "shadow_pgtable", "vms[0].nested[1].leaves"),
        ("kvm_nested_guest", "l1_host", "vms[0].nested[1]"),
        ("kvm_nested_guest", "l1_lpid", "vms[0].nested[1].l1_lpid"),
    ],
)
@pytest.mark.parametrize("wild", [WILD + 2, 0xC008_0F00_0000_0000, 0x1000, 0])
def test_one_wild_member_costs_only_what_hangs_on_it(
    struct: str, member: str, path: str, wild: int
) -> None:
    kvm = KvmWorld()
    kvm.rmap(17, SINGLE)
    good = _vm(_read(kvm))
    places = {"kvm": kvm.kvm, "kvm_memory_slot": kvm.slot, "kvm_nested_guest": kvm.guests[70]}
    kvm.world.set(struct, places[struct], member, wild)
    state = _read(kvm)
    vm = _vm(state)
    if member.endswith("xa_head") and wild == 0:
        assert state.problems == ()  # no nested guest at all
    else:
        assert state.problems
        assert all(problem.path.startswith(path) for problem in state.problems)
    if not path.endswith("host_leaves"):
        assert list(vm.host_leaves) == list(good.host_leaves)
    if "memslots" not in path:
        assert list(vm.memslots[0].rmap) == list(good.memslots[0].rmap)
    if "nested" not in path:
        assert [list(guest.leaves) for guest in vm.nested] == [
            list(guest.leaves) for guest in good.nested
        ]


def test_a_nested_guest_that_cannot_be_read_is_listed_without_values() -> None:
    kvm = KvmWorld()
    kvm.world.set("xa_node", kvm.leaves[1], "slots[6]", WILD)
    state = _read(kvm)
    guest = _vm(state).nested[1]
    assert guest.l1_lpid == 70
    assert (guest.shadow_lpid, guest.shadow_pgtable, len(guest.leaves)) == (None, None, 0)
    (problem,) = state.problems
    assert (problem.path, problem.address) == ("vms[0].nested[1]", WILD)


def test_a_cyclic_vm_list_ends() -> None:
    kvm = KvmWorld()
    link = kvm.world.at("kvm", kvm.kvm, "vm_list")
    kvm.world.put(link, link)
    state = _read(kvm)
    assert len(state.vms) == 1
    assert "cycle" in state.problems[0].message


def test_what_one_state_costs_is_bounded() -> None:
    kvm = KvmWorld()
    kvm.rmap(17, SINGLE)
    counts = []
    for pages in (0, 10, 20, 200):
        state = StateReader(kvm.kernel(), SOURCE, max_bytes=pages * 4096).read()
        assert bool(state.problems) == (pages < 200)
        counts.append(sum(1 + len(vm.memslots) + len(vm.nested) for vm in state.vms))
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == 4
    reader = StateReader(kvm.kernel(), SOURCE, max_bytes=200 * 4096)
    assert [len(reader.read().problems) for _ in range(3)] == [0, 0, 0]


def test_many_vms_that_share_one_large_array_end() -> None:
    kvm = KvmWorld()
    kvm.world.set("kvm_memory_slot", kvm.slot, "npages", 1 << 40)
    copies = [kvm.kvm]
    size = kvm.world.types.struct("kvm").size
    for _ in range(20):
        copies.append(kvm.world.allocate(size, 128))
        kvm.world.write(copies[-1], kvm.world.memory.read(kvm.kvm, size))
    kvm.world.list(kvm.vm_list, [kvm.world.at("kvm", copy, "vm_list") for copy in copies])
    state = _read(kvm)
    assert len(state.vms) == 21
    assert all(vm.memslots[0].npages == 1 << 40 for vm in state.vms)
