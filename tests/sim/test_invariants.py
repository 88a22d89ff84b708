"""Invariants I1 to I6: each on a State that keeps it and on one that just breaks it."""

from dataclasses import replace

import numpy as np
import pytest

from nestscope.decoders.state import (
    CHAIN,
    ENTRY,
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    State,
)
from nestscope.decoders.state import (
    LEAF as LEAF_ROW,
)
from nestscope.sim.invariants import (
    INVARIANTS,
    MAX_TOLD,
    Violation,
    violations,
    vms_in_transition,
)

from .states import ARRAY, KVM, LEAF, PAGE, RWXRC, chain, guest, slot, state, vm

N = 0x100_0000  # nested real address
GPA = 0x90_0000
GFN = 0x90
HPA = 0x2A1_0000
OTHER = 0x2B2_0000


def mapped(
    *,
    host: int | None = RWXRC | HPA,
    shadow: int = RWXRC | HPA,
    entries: tuple[tuple[int, int], ...] = ((1, N),),
    gfn: int = GFN,
) -> State:
    """Nested guest 1 maps one page at `N`, which the host maps at `GPA`."""
    return state(
        vm(
            host=[] if host is None else [(GPA, 16, host)],
            memslots=[slot(chain(gfn, *entries))] if entries else [slot()],
            nested=[guest(1, [(N, 16, shadow)])],
        )
    )


def chains_only(form: int, *entries: tuple[int, int]) -> State:
    """Stale entries: a chain and nothing that it leads to."""
    return state(vm(memslots=[slot((GFN, form, entries))]))


def with_orphan(known: State, orphan: NestedGuest) -> State:
    """A vCPU is in a nested guest that the idr does not have."""
    return replace(known, vms=tuple(replace(vm, orphans=(orphan,)) for vm in known.vms))


def guests_only(*guests: object) -> State:
    return state(vm(nested=guests))  # type: ignore[arg-type]


GOOD = {
    "leaf, entry and host page agree": mapped(),
    "a stale entry is legal": state(vm(memslots=[slot(chain(GFN, (1, N)))], nested=[guest(1)])),
    "a stale entry of another page is legal": mapped(entries=((1, N), (2, N), (1, N + PAGE))),
    "an entry of a nested guest that is gone is legal": mapped(entries=((7, N), (1, N))),
    "a leaf with less rights is legal": mapped(shadow=LEAF | HPA | 0x104),
    "software bits may differ": mapped(shadow=RWXRC | HPA | 0xE00),
    "a page of a 2M host leaf": state(
        vm(
            host=[(0x20_0000, 21, RWXRC | 0x4000_0000)],
            memslots=[slot(chain(0x20, (1, N)))],
            nested=[guest(1, [(N, 16, RWXRC | 0x401F_0000)])],
        )
    ),
    "a list of two": chains_only(FORM_LIST, (2, N), (1, N)),
    "the zero entry as the tail": chains_only(FORM_LIST, (2, N), (0, 0)),
    "the zero entry alone": chains_only(FORM_SINGLE, (0, 0)),
    "two nested guests": guests_only(guest(1), guest(2)),
    "values that could not be read": guests_only(
        guest(1, shadow_lpid=None, refcnt=None, shadow_pgtable=None),
        guest(2, shadow_lpid=None, refcnt=None, shadow_pgtable=None),
    ),
    "no VM at all": state(),
}

BAD = {
    "I1: no entry at all": ("I1", mapped(entries=())),
    "I1: only entries of another address": ("I1", mapped(entries=((1, N + PAGE),))),
    "I1: only entries of another nested guest": ("I1", mapped(entries=((2, N),))),
    "I2: the host leaf is gone": ("I2", mapped(host=None)),
    "I2: the entry is at the gfn after the page": ("I2", mapped(gfn=GFN + 1)),
    "I2: the entry is at the gfn before the page": ("I2", mapped(gfn=GFN - 1)),
    "I2: the host maps another page": ("I2", mapped(host=RWXRC | OTHER)),
    "I2: outside of the 2M host leaf": (
        "I2",
        state(
            vm(
                host=[(0x20_0000, 21, RWXRC | 0x4000_0000)],
                memslots=[slot(chain(0x20, (1, N)))],
                nested=[guest(1, [(N, 16, RWXRC | 0x4020_0000)])],
            )
        ),
    ),
    "I3: write": ("I3", mapped(host=LEAF | HPA | 0x185)),
    "I3: read": ("I3", mapped(host=LEAF | HPA | 0x183)),
    "I3: execute": ("I3", mapped(host=LEAF | HPA | 0x186)),
    "I4: changed": ("I4", mapped(host=LEAF | HPA | 0x107)),
    "I4: referenced": ("I4", mapped(host=LEAF | HPA | 0x087)),
    "I5: an entry twice": ("I5", chains_only(FORM_LIST, (1, N), (2, N), (1, N))),
    "I5: zero entry before the tail": ("I5", chains_only(FORM_LIST, (2, N), (0, 0), (1, N))),
    "I5: zero entry at the head": ("I5", chains_only(FORM_LIST, (0, 0), (1, N))),
    "I5: a list of one": ("I5", chains_only(FORM_LIST, (1, N))),
    "I5: an empty list": ("I5", chains_only(FORM_LIST)),
    "I5: a single entry with two": ("I5", chains_only(FORM_SINGLE, (1, N), (2, N))),
    "I5: n_gpa inside a page": ("I5", chains_only(FORM_SINGLE, (1, N + 0x1000))),
    "I6: two with one shadow_lpid": ("I6", guests_only(guest(1), guest(2, shadow_lpid=101))),
    "I6: the VM's own LPID": ("I6", guests_only(guest(1, shadow_lpid=1))),
    "I6: the LPID of the host": ("I6", guests_only(guest(1, shadow_lpid=0))),
    "I6: a shadow_lpid of another VM": (
        "I6",
        state(vm(nested=[guest(1)]), vm(nested=[guest(2, shadow_lpid=101)], kvm=KVM + 8, lpid=2)),
    ),
    "I6: one tree for two": (
        "I6",
        guests_only(guest(1, shadow_pgtable=0xC000_0000_0300_0000),
                    guest(2, shadow_pgtable=0xC000_0000_0300_0000)),
    ),
    "I6: no reference of the idr": ("I6", guests_only(guest(1, refcnt=0))),
    "I6: an LPID that no entry can hold": ("I6", guests_only(guest(4096))),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_states_keep_every_rule(name: str) -> None:
    assert violations(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_state_breaks_its_rule_and_no_other(name: str) -> None:
    rule, bad = BAD[name]
    assert [v.rule for v in violations(bad, rc_by_hardware=False)] == [rule]


def test_every_rule_has_a_state_that_breaks_it() -> None:
    assert {rule for rule, _ in BAD.values()} == set(INVARIANTS)


def test_a_violation_says_where() -> None:
    (found,) = violations(mapped(host=None))
    assert found == Violation(
        "I2",
        "shadow leaf maps the host leaf's page",
        "error",
        "nested guest 1 maps 0x1000000 with 0xc000000002a10187: the host has unmapped the guest "
        "page (gfn 0x90, host no leaf)",
        KVM,
        0,
        GFN,
        1,
        N,
        HPA,
    )


def test_a_chain_violation_gives_the_address_of_the_rmap_word() -> None:
    (found,) = violations(chains_only(FORM_LIST, (2, N), (0, 0), (1, N)))
    assert (found.gfn, found.l1_lpid, found.n_gpa) == (GFN, 0, 0)
    assert found.address == ARRAY + 8 * GFN
    assert "walk of the chain ends there" in found.message


def test_one_matching_entry_among_many_is_enough() -> None:
    """The same page may be entered at several gfns; only one of them must be right."""
    good = state(
        vm(
            host=[(GPA, 16, RWXRC | HPA), (GPA + PAGE, 16, LEAF | OTHER | 0x101)],
            memslots=[slot(chain(GFN, (1, N)), chain(GFN + 1, (1, N)))],
            nested=[guest(1, [(N, 16, RWXRC | HPA)])],
        )
    )
    assert violations(good, rc_by_hardware=False) == []


def test_the_second_memslot_counts_as_well() -> None:
    second = Memslot(7, 0x4000, 16, 0, 0, ARRAY, Chains.build([chain(0x4001, (1, N))]))
    host = [(0x4001_0000, 16, RWXRC | HPA)]
    leaves = [(N, 16, RWXRC | HPA)]
    assert (
        violations(state(vm(host=host, memslots=[slot(), second], nested=[guest(1, leaves)]))) == []
    )
    (found,) = violations(state(vm(memslots=[slot(), second], nested=[guest(1, leaves)])))
    assert (found.rule, found.memslot, found.gfn) == ("I2", 7, 0x4001)


def test_i4_is_not_checked_where_the_hardware_sets_r_and_c_itself() -> None:
    bad = BAD["I4: changed"][1]
    assert violations(bad, rc_by_hardware=True) == []
    assert [v.severity for v in violations(bad, rc_by_hardware=False)] == ["error"]
    assert [v.severity for v in violations(bad)] == ["info"]


def test_a_vm_whose_lock_is_held_is_in_transition_and_not_judged() -> None:
    held = vm(nested=[guest(1, [(N, 16, RWXRC | HPA)])], held=True)
    assert violations(state(held)) == []
    assert vms_in_transition(state(held)) == (held,)
    unknown = vm(nested=[guest(1, [(N, 16, RWXRC | HPA)])], held=None)
    assert [v.rule for v in violations(state(unknown))] == ["I1"]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("vms[0].memslots[0].rmap[gfn 144]", []),
        ("vms[0].memslots", []),
        ("vms[0].host_leaves", ["I1"]),
        ("vms[1].memslots[0].rmap", ["I1", "I2"]),
        ("modules.kvm", ["I1", "I2"]),
    ],
)
def test_what_could_not_be_read_is_no_violation(path: str, left: list[str]) -> None:
    broken = vm(
        memslots=[slot(chain(GFN, (1, N)))],
        nested=[guest(1, [(N, 16, RWXRC | HPA), (N + PAGE, 16, RWXRC | HPA)])],
    )
    known = state(broken, problems=[Problem(path, "unreadable")])
    assert [v.rule for v in violations(known)] == left


def test_a_list_cut_short_by_a_problem_is_not_called_malformed() -> None:
    cut = vm(memslots=[slot((GFN, FORM_LIST, ((1, N),)))])
    problem = Problem("vms[0].memslots[0].rmap[gfn 144]", "next is NULL")
    assert violations(state(cut, problems=[problem])) == []
    assert [v.rule for v in violations(state(cut))] == ["I5"]


def test_without_a_page_size_no_gfn_leads_to_a_host_leaf() -> None:
    unknown = state(*mapped(host=None).vms, page_shift=None)
    assert violations(unknown) == []


def test_an_orphan_is_judged_like_any_nested_guest_and_is_itself_a_violation() -> None:
    good = mapped()
    orphan = guest(1, [(N, 16, RWXRC | HPA)], shadow_lpid=110, shadow_pgtable=0xC000_0000_0400_0000)
    (found,) = violations(with_orphan(good, orphan))
    assert (found.rule, found.l1_lpid) == ("I6", 1)
    lost = violations(with_orphan(mapped(host=None), orphan))
    assert [v.rule for v in lost] == ["I2", "I2", "I6"]


def test_a_million_broken_leaves_are_not_all_listed() -> None:
    count = 100_000
    leaves = np.zeros(count, LEAF_ROW)
    leaves["address"] = np.arange(count, dtype=np.uint64) << np.uint64(16)
    leaves["shift"], leaves["pte"] = 16, RWXRC
    broken = guest(1)
    many = type(broken)(**{**vars(broken), "leaves": Leaves(leaves)})
    found = violations(state(vm(nested=[many])))
    assert len(found) == MAX_TOLD + 1
    assert found[-1].message == "further ones are not listed"


def test_the_bulk_path_finds_the_one_bad_leaf_among_many() -> None:
    """Every page of a large guest mapped by ten nested guests, one shadow leaf wrong."""
    pages, guests = 2000, 10
    gfns = np.arange(pages, dtype=np.uint64)
    host = np.zeros(pages, LEAF_ROW)
    host["address"], host["shift"] = gfns << np.uint64(16), 16
    host["pte"] = np.uint64(RWXRC) | (gfns + np.uint64(1) << np.uint64(16))
    index = np.zeros(pages, CHAIN)
    index["gfn"], index["form"], index["count"] = gfns, FORM_LIST, guests
    index["first"] = gfns * np.uint64(guests)
    entries = np.zeros(pages * guests, ENTRY)
    entries["l1_lpid"] = np.tile(np.arange(1, guests + 1), pages)
    entries["n_gpa"] = np.repeat(gfns << np.uint64(16), guests)
    memslot = Memslot(0, 0, pages, 0, 0, ARRAY, Chains(index, entries))
    nested = []
    for lpid in range(1, guests + 1):
        own = host.copy()
        if lpid == 4:
            own["pte"][1234] ^= np.uint64(0x100_0000)
        base = guest(lpid)
        nested.append(type(base)(**{**vars(base), "leaves": Leaves(own)}))
    whole = vm(memslots=[memslot], nested=nested)
    whole = type(whole)(**{**vars(whole), "host_leaves": Leaves(host)})
    found = violations(state(whole), rc_by_hardware=False)
    assert [(v.rule, v.l1_lpid, v.n_gpa, v.gfn) for v in found] == [("I2", 4, 1234 << 16, 1234)]
