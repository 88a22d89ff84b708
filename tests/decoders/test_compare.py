"""Two States compared: agreement up to host addresses, every difference named by its path."""

from dataclasses import replace

import pytest
from hypothesis import given

from nestscope.decoders.compare import Renaming, compare
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Running,
    Source,
    State,
    Vm,
)

from .strategies import chains

V_L = 0xC000000000000000
RWX = 0x7
R, C = 0x100, 0x80


def pte(frame: int, flags: int = RWX | R | C) -> int:
    return V_L | frame << 16 | flags


def state(
    host: dict[int, int],
    shadow: dict[int, int],
    chain: list[tuple[int, int]] | None = None,
    host_shift: int = 16,
) -> State:
    """One VM with one memslot and one nested guest."""
    rows = [(0x80, FORM_LIST if len(chain) > 1 else FORM_SINGLE, chain)] if chain else []
    return State(
        Source("model", "test"),
        KernelInfo("test", 16),
        (
            Vm(
                kvm=0xC000000010000000,
                lpid=1,
                radix=True,
                mmu_lock_held=False,
                l1_ptcr=0x40000,
                memslots=(Memslot(0, 0, 1024, 0x100000, 0, 0xC008000000, Chains.build(rows)),),
                host_leaves=Leaves.build((a, host_shift, p) for a, p in host.items()),
                nested=(
                    NestedGuest(
                        1,
                        2,
                        1,
                        0x40000000001000AD,
                        0,
                        0xC000000020000000,
                        Leaves.build((a, 16, p) for a, p in shadow.items()),
                    ),
                ),
            ),
        ),
    )


def paths(expected: State, observed: State, renaming: Renaming | None = None) -> list[str]:
    return [difference.path for difference in compare(expected, observed, renaming)]


@given(chains(), chains())
def test_two_rmaps_agree_exactly_when_every_chain_does(one: Chains, other: Chains) -> None:
    def with_rmap(rmap: Chains) -> State:
        vm = state({}, {}).vms[0]
        slot = replace(vm.memslots[0], rmap=rmap)
        return replace(state({}, {}), vms=(replace(vm, memslots=(slot,)),))

    differing = {chain.gfn for chain in {*one} ^ {*other}}
    assert paths(with_rmap(one), with_rmap(one)) == []
    assert paths(with_rmap(one), with_rmap(other)) == [
        f"vms[lpid=1].memslots[id=0].rmap[gfn={gfn:#x}]" for gfn in sorted(differing)
    ]


def test_host_frames_may_be_renamed_one_to_one() -> None:
    expected = state({0: pte(1), 0x10000: pte(2)}, {0: pte(2)})
    observed = state({0: pte(0x77), 0x10000: pte(0x33)}, {0: pte(0x33)})
    assert compare(expected, observed) == []


def test_a_shadow_leaf_to_another_host_page_is_a_difference() -> None:
    expected = state({0: pte(1), 0x10000: pte(2)}, {0: pte(2)})
    observed = state({0: pte(0x77), 0x10000: pte(0x33)}, {0: pte(0x77)})
    assert paths(expected, observed) == ["vms[lpid=1].nested[l1_lpid=1].leaves[0x0].host page"]


def test_two_guest_pages_on_one_host_page_are_a_difference() -> None:
    expected = state({0: pte(1), 0x10000: pte(2)}, {})
    observed = state({0: pte(0x77), 0x10000: pte(0x77)}, {})
    assert "also used elsewhere" in str(compare(expected, observed)[0])


def test_a_host_page_must_not_change_silently_between_two_steps() -> None:
    renaming = Renaming()
    expected = state({0: pte(1)}, {})
    assert compare(expected, state({0: pte(0x77)}, {}), renaming) == []
    assert paths(expected, state({0: pte(0x78)}, {}), renaming) == [
        "vms[lpid=1].host_leaves[0x0].host page"
    ]


def test_a_base_page_inside_a_large_host_page_moves_with_it() -> None:
    expected = state({0: pte(0x20)}, {0: pte(0x25)}, host_shift=21)
    assert compare(expected, state({0: pte(0x60)}, {0: pte(0x65)}, host_shift=21)) == []
    assert paths(expected, state({0: pte(0x60)}, {0: pte(0x66)}, host_shift=21)) == [
        "vms[lpid=1].nested[l1_lpid=1].leaves[0x0].host page"
    ]


@pytest.mark.parametrize("bit", [0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, R, C, 1 << 61])
def test_every_flag_counts(bit: int) -> None:
    expected = state({0: pte(1)}, {0: pte(1)})
    assert paths(expected, state({0: pte(1) ^ bit}, {0: pte(1)})) == [
        "vms[lpid=1].host_leaves[gpa=0x0]"
    ]
    assert paths(expected, state({0: pte(1)}, {0: pte(1) ^ bit})) == [
        "vms[lpid=1].nested[l1_lpid=1].leaves[n_gpa=0x0]"
    ]


@pytest.mark.parametrize("bit", [0x200, 0x400, 0x800])
def test_linux_software_bits_do_not_count(bit: int) -> None:
    assert compare(state({0: pte(1)}, {}), state({0: pte(1) | bit}, {})) == []


def test_the_order_of_a_chain_counts() -> None:
    expected = state({}, {}, [(1, 0), (2, 0)])
    assert compare(expected, state({}, {}, [(1, 0), (2, 0)])) == []
    (difference,) = compare(expected, state({}, {}, [(2, 0), (1, 0)]))
    assert difference.path == "vms[lpid=1].memslots[id=0].rmap[gfn=0x80]"
    assert difference.expected == "list (1, 0x0) -> (2, 0x0)"
    assert difference.observed == "list (2, 0x0) -> (1, 0x0)"


def test_a_missing_chain_names_its_gfn() -> None:
    (difference,) = compare(state({}, {}, [(1, 0)]), state({}, {}))
    assert difference.path.endswith("rmap[gfn=0x80]")
    assert difference.observed == "empty"


def test_a_missing_leaf_and_a_leaf_too_many_are_named() -> None:
    assert paths(state({0: pte(1)}, {}), state({0x20000: pte(1)}, {})) == [
        "vms[lpid=1].host_leaves[gpa=0x0]",
        "vms[lpid=1].host_leaves[gpa=0x20000]",
    ]


def test_unknown_never_equals_anything() -> None:
    one = state({}, {})
    unknown = replace(one, vms=(replace(one.vms[0], l1_ptcr=None),))
    assert paths(unknown, unknown) == ["vms[lpid=1].l1_ptcr"]
    assert paths(one, unknown) == ["vms[lpid=1].l1_ptcr"]


def test_what_could_not_be_read_is_a_difference_at_its_path() -> None:
    one = state({}, {})
    gap = replace(one, problems=(Problem("vms[0].memslots[0].rmap", "unreadable", 1),))
    assert paths(one, gap) == ["vms[0].memslots[0].rmap"]


def test_a_nested_guest_on_one_side_only_is_a_difference() -> None:
    one = state({}, {})
    without = replace(one, vms=(replace(one.vms[0], nested=()),))
    (difference,) = compare(one, without)
    assert difference == ("vms[lpid=1].nested[l1_lpid=1]", "present", "absent")


def test_kernel_objects_may_be_anywhere_but_must_stay_there() -> None:
    one = state({}, {})
    moved = replace(one, vms=(replace(one.vms[0], kvm=0xC000000099990000),))
    renaming = Renaming()
    assert compare(one, one, renaming) == []
    assert paths(one, moved) == []
    assert paths(one, moved, renaming) == ["vms[lpid=1].kvm"]


def test_a_nested_guest_that_should_not_exist_is_a_difference() -> None:
    one = state({}, {})
    without = replace(one, vms=(replace(one.vms[0], nested=()),))
    (difference,) = compare(without, one)
    assert difference == ("vms[lpid=1].nested[l1_lpid=1]", "absent", "present")


def test_two_nested_guests_must_not_share_a_shadow_tree() -> None:
    def with_roots(first: int, second: int) -> State:
        vm = state({}, {}).vms[0]
        nested = (
            replace(vm.nested[0], shadow_pgtable=first),
            replace(vm.nested[0], l1_lpid=2, shadow_pgtable=second),
        )
        return replace(state({}, {}), vms=(replace(vm, nested=nested),))

    assert compare(with_roots(1, 2), with_roots(7, 8)) == []
    assert paths(with_roots(1, 2), with_roots(7, 7)) == [
        "vms[lpid=1].nested[l1_lpid=2].shadow_pgtable"
    ]


def test_the_page_size_of_a_leaf_counts() -> None:
    expected = state({0: pte(0x20)}, {}, host_shift=21)
    assert paths(expected, state({0: pte(0x20)}, {}, host_shift=16)) == [
        "vms[lpid=1].host_leaves[gpa=0x0]"
    ]


def in_use(*running: Running, orphans: tuple[NestedGuest, ...] = (), **changes: object) -> State:
    """Nested guest 1 at address 0x100, with a partition table entry."""
    guest = NestedGuest(1, 2, 1, 0, 0, 0x7000, address=0x100, shadow_pate=(0x7000 | 0xAD, 5))
    guest = replace(guest, **changes)  # type: ignore[arg-type]
    vm = Vm(1, 1, True, False, 0, nested=(guest,), running=running, orphans=orphans)
    return State(Source("model", "test"), KernelInfo("test", 16), (vm,))


def test_vcpus_are_in_the_same_nested_guests_whatever_their_addresses_are() -> None:
    left = in_use(Running(0, 0x100))
    moved = in_use(Running(0, 0x900), address=0x900)
    assert compare(left, moved) == []
    (other,) = compare(left, in_use(Running(0, 0x555), address=0x900))
    assert other.path == "vms[lpid=1].running[vcpu_id=0]"
    (gone,) = compare(left, in_use())
    assert (gone.expected, gone.observed) == ("present", "absent")


def test_orphans_are_compared_by_their_lpid() -> None:
    orphan = NestedGuest(9, 3, 1, 0, 0, 0x8000, address=0x300, shadow_pate=(0x8000, 0))
    (found,) = compare(in_use(), in_use(orphans=(orphan,)))
    assert (found.path, found.observed) == ("vms[lpid=1].orphans[l1_lpid=9]", "present")


def test_two_of_one_name_are_compared_each_with_its_own() -> None:
    """vCPUs can be in two nested guests that had the same l1_lpid, one after the other."""
    first = NestedGuest(9, 3, 1, 0, 0, 0x8000, address=0x300)
    second = replace(first, shadow_lpid=4, shadow_pgtable=0x9000, address=0x400)
    both = in_use(orphans=(first, second))
    assert compare(both, both) == []
    (changed,) = compare(both, in_use(orphans=(replace(first, refcnt=2), second)))
    assert changed.path == "vms[lpid=1].orphans[l1_lpid=9].refcnt"
    (gone,) = compare(both, in_use(orphans=(first,)))
    assert (gone.path, gone.observed) == ("vms[lpid=1].orphans[l1_lpid=9#2]", "absent")


def test_partition_table_entries_agree_but_for_the_place_of_the_root() -> None:
    left = in_use()
    assert compare(left, in_use(shadow_pate=(0x9_0000 | 0xAD, 5))) == []
    for wrong, where in (((0x7000 | 0xAC, 5), "dw0"), ((0x7000 | 0xAD, 6), "dw1")):
        (found,) = compare(left, in_use(shadow_pate=wrong))
        assert found.path == f"vms[lpid=1].nested[l1_lpid=1].shadow_pate.{where}"


def test_leaves_too_large_to_expand_are_said_and_the_others_compared() -> None:
    """A damaged tree can hold millions of leaves of 2**51 bytes: memory would not do."""
    small = state({0: pte(1), 0x10000: pte(2)}, {})
    leaf = (1 << 51, 51, pte(0))
    leaves = Leaves.build([*small.vms[0].host_leaves, leaf])
    damaged = replace(small, vms=(replace(small.vms[0], host_leaves=leaves),))
    (said,) = compare(damaged, damaged)
    assert said.path == "vms[lpid=1].host_leaves.host pages"
    assert "the last 1 leaves are not compared" in said.observed
    wrong = Leaves.build([(0, 16, pte(5)), (0x10000, 16, pte(5)), leaf])
    other = replace(small, vms=(replace(small.vms[0], host_leaves=wrong),))
    assert paths(damaged, other) == [said.path, *["vms[lpid=1].host_leaves[0x10000].host page"]]


def test_what_only_one_side_knows_of_them_is_a_difference() -> None:
    known = in_use()
    for unknown in (
        in_use(shadow_pate=None),
        State(known.source, known.kernel, (replace(known.vms[0], running=None),)),
    ):
        (found,) = compare(known, unknown)
        assert (found.expected, found.observed) == ("known", "unknown")
        assert compare(unknown, unknown) == []
