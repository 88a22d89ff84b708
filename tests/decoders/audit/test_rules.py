"""Each rule on a State that just breaks it; the invariants I1 to I6 are in tests/sim."""

from dataclasses import replace

import numpy as np
import pytest

from nestscope.decoders.audit.audit import MAX_TOLD, RULES, audit
from nestscope.decoders.audit.finding import ERROR, INFO, WARNING, Finding
from nestscope.decoders.audit.guests import shadow_dw0
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    LEAF,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Running,
    State,
)
from tests.sim.states import ARRAY, KVM, PAGE, RWXRC, chain, guest, slot, state, vm

N, GPA, GFN = 0x100_0000, 0x90_0000, 0x90
HPA = 0x2A1_0000
M2 = 1 << 21
CHAIN_PATH = "vms[0].memslots[0].rmap[gfn 144]"
ROOT = 0xC000_0000_0300_0000


def mapped(
    *, host: int = RWXRC | HPA, shadow: int = RWXRC | HPA, shift: int = 16, **more: object
) -> State:
    """Nested guest 1 maps one page at `N`, which the host maps at `GPA`."""
    known = vm(
        host=[(GPA, 16, host)],
        memslots=[slot(chain(GFN, (1, N)))],
        nested=[guest(1, [(N, shift, shadow)])],
    )
    return state(replace(known, **more))  # type: ignore[arg-type]


def hosts(*leaves: tuple[int, int, int], flags: int = 0, npages: int = 1024) -> State:
    """A VM with these host leaves and one memslot of `npages` from 0."""
    return state(vm(host=leaves, memslots=[replace(slot(), flags=flags, npages=npages)]))


def problem(kind: str, word: int, path: str = CHAIN_PATH, address: int = 0xC000_5550) -> State:
    """A chain of which the reader said this."""
    known = vm(memslots=[slot((GFN, FORM_LIST, ((1, N),)))], host=[(GPA, 16, RWXRC)])
    return state(known, problems=[Problem(path, "so it is", address, kind, word)])


def pate(dw0: int, dw1: int, *, gr_to_hr: int = 1) -> State:
    known = guest(1, shadow_pgtable=ROOT, process_table=0x77, l1_gr_to_hr=gr_to_hr)
    return state(vm(nested=[replace(known, shadow_pate=(dw0, dw1))]))


def long_chains(*lengths: int) -> State:
    chains = [
        chain(GFN + at, *((1 + n % 9, N + n * PAGE) for n in range(length)))
        for at, length in enumerate(lengths)
    ]
    host = [(GPA + at * PAGE, 16, RWXRC) for at in range(len(lengths))]
    return state(vm(host=host, memslots=[slot(*chains)]))


BROKEN = {
    "a list of one": ("I5.form", state(vm(memslots=[slot((GFN, FORM_LIST, ((1, N),)))]))),
    "a single of two": (
        "I5.form",
        state(vm(memslots=[slot((GFN, FORM_SINGLE, ((1, N), (2, N))))])),
    ),
    "reserved bits": ("I5.reserved-bits", problem("chain-reserved", 1 << 52 | N | 0x10)),
    "unaligned node": ("I5.node-unaligned", problem("chain-unaligned", 0xC000_0004)),
    "wild node": ("I5.node-wild", problem("chain-wild", 0x4141_4141_4141_4140)),
    "lost tail": ("I5.lost-tail", problem("chain-null-next", 0)),
    "cycle": ("I5.cycle", problem("chain-cycle", 0xC000_0000_0000_5550)),
    "too long to be walked": ("rmap.long-walk", problem("chain-too-long", 1 << 20)),
    "too many nodes": ("rmap.long-walk", problem("chain-too-many", 0xC000_0000_0000_5550)),
    "a table with two parents": (
        "tree.table-twice",
        problem("table-twice", 0, "vms[0].host_leaves", 0x5000),
    ),
    "a table of no size": (
        "tree.table-size",
        problem("table-size", 0, "vms[0].host_leaves", 0x5008),
    ),
    "an LPID of 13 bits": ("I6.lpid-range", state(vm(nested=[guest(4096)]))),
    "no partition table entry": ("I6.partition-table", pate(0, 0)),
    "entry without HR": ("I6.partition-table", pate(shadow_dw0(ROOT) & ~(1 << 63), 0x77)),
    "entry of another size": ("I6.partition-table", pate(shadow_dw0(ROOT) ^ 0x20, 0x77)),
    "another process table": ("I6.partition-table", pate(shadow_dw0(ROOT), 0x78)),
    "a page of nobody": ("shadow.freed-page", mapped(shadow=RWXRC | HPA + PAGE)),
    "a shadow leaf of 2M": ("shadow.exceeds-host-leaf", mapped(shift=21)),
    "not cached": ("shadow.attributes", mapped(shadow=RWXRC | HPA | 0x20)),
    "strongly ordered": ("shadow.attributes", mapped(shadow=RWXRC | HPA | 0x10)),
    "host leaf before any memslot": (
        "host.outside-memslot",
        state(vm(host=[(0, 16, RWXRC)], memslots=[replace(slot(), base_gfn=1)])),
    ),
    "host leaf behind the memslot": ("host.outside-memslot", hosts((1024 * PAGE, 16, RWXRC))),
    "huge leaf across the end": (
        "host.outside-memslot",
        hosts((1024 * PAGE - M2, 21, RWXRC), npages=1023),
    ),
    "no memslot at all": ("host.outside-memslot", state(vm(host=[(0, 16, RWXRC)]))),
    "huge while logging": ("host.huge-while-logging", hosts((M2, 21, RWXRC), flags=1)),
    "reserved bit 57 of a host leaf": ("tree.reserved-bits", hosts((0, 16, RWXRC | 0x40))),
    "reserved bit 3 of a shadow leaf": (
        "tree.reserved-bits",
        mapped(shadow=RWXRC | HPA | 1 << 60),
    ),
    "huge page off its size": ("tree.misaligned", hosts((0, 21, RWXRC | PAGE))),
    "base page off its size": ("tree.misaligned", hosts((0, 16, RWXRC | 0x1000))),
    "chain inside a huge leaf": (
        "rmap.not-at-leaf-start",
        state(vm(host=[(0, 21, RWXRC)], memslots=[slot(chain(3, (1, N)))])),
    ),
    "chain without a host leaf": (
        "rmap.no-host-leaf",
        state(vm(memslots=[slot(chain(GFN, (1, N)))])),
    ),
    "an entry without a leaf": (
        "rmap.stale",
        state(vm(host=[(GPA, 16, RWXRC)], memslots=[slot(chain(GFN, (1, N)))])),
    ),
    "one long chain": ("rmap.long-chain", long_chains(64, 1, 2)),
    "lock held": ("vm.in-transition", mapped(mmu_lock_held=True, memslots=(slot(),))),
}

HEALTHY = {
    "one mapping": mapped(),
    "entry of the partition table": pate(shadow_dw0(ROOT), 0x77),
    "no entry before the first run": pate(0, 0, gr_to_hr=0),
    "entry that was not read": state(vm(nested=[guest(1, shadow_pgtable=ROOT)])),
    "last leaf of the memslot": hosts((1023 * PAGE, 16, RWXRC)),
    "huge leaf at the end": hosts((1024 * PAGE - M2, 21, RWXRC)),
    "huge leaf without logging": hosts((M2, 21, RWXRC)),
    "base page while logging": hosts((M2, 16, RWXRC), flags=1),
    "software bits": mapped(shadow=RWXRC | HPA | 0xE00, host=RWXRC | HPA | 1 << 61),
    "a vCPU is in its nested guest": state(
        replace(vm(nested=[guest(1, address=KVM)]), running=(Running(3, KVM),))
    ),
}


def fired(known: State) -> list[str]:
    return [finding.rule for finding in audit(known, rc_by_hardware=False)]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_state_fires_its_rule(name: str) -> None:
    rule, known = BROKEN[name]
    assert rule in fired(known)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_state_fires_none(name: str) -> None:
    assert audit(HEALTHY[name], rc_by_hardware=False) == []


def test_every_rule_is_broken_somewhere() -> None:
    """The others are those of tests/sim/test_invariants.py."""
    there = {
        *("I1", "I2", "I3", "I4", "I5.zero-entry", "I5.sub-page", "I5.duplicate", "I6.orphan"),
        *("I6.refcnt", "I6.shadow-lpid", "I6.shadow-pgtable"),
    }
    idr_key = {"I6.idr-key"}  # below
    assert {rule for rule, _ in BROKEN.values()} | there | idr_key == {rule.id for rule in RULES}


def test_ids_are_unique_and_severities_are_three() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) >= 25
    assert {rule.severity for rule in RULES} == {ERROR, WARNING, INFO}
    assert all(rule.description and rule.consequence for rule in RULES)


@pytest.mark.parametrize("kind", ["idr-key", "l1-host"])
def test_a_nested_guest_under_another_key_is_named_by_its_key(kind: str) -> None:
    known = vm(nested=[guest(4), guest(7)])
    told = Problem("vms[0].nested[1].l1_lpid", "it says 9", 0xC000_1234, kind, 9)
    (found,) = audit(state(known, problems=[told]))
    assert (found.rule, found.l1_lpid, found.address) == ("I6.idr-key", 7, 0xC000_1234)


def test_a_problem_of_a_chain_says_where_and_which_entry() -> None:
    found = [f for f in audit(BROKEN["reserved bits"][1]) if f.rule == "I5.reserved-bits"]
    assert found == [
        Finding(
            *("I5.reserved-bits", "reserved bits of an entry are 0", ERROR),
            "gfn 0x90: so it is",
            *(KVM, 0, GFN, 1, N, 0xC000_5550),
        )
    ]


def test_a_problem_of_a_shadow_tree_names_its_nested_guest() -> None:
    known = replace(vm(nested=[guest(4), guest(7)]), orphans=(guest(9),))
    for path, lpid in (
        ("vms[0].nested[1].leaves", 7),
        ("vms[0].orphans[0].leaves", 9),
        ("vms[0].host_leaves", None),
    ):
        told = Problem(path, "so it is", 0x5000, "table-twice")
        found = [f for f in audit(state(known, problems=[told])) if f.rule == "tree.table-twice"]
        assert [(f.l1_lpid, f.address) for f in found] == [(lpid, 0x5000)]


def test_problems_of_no_kind_are_no_findings() -> None:
    known = state(vm(), problems=[Problem(CHAIN_PATH, "it cannot be read", 0xC000_0000)])
    assert audit(known) == []


def test_a_huge_leaf_names_the_memslot_that_it_begins_in() -> None:
    (found,) = audit(BROKEN["huge leaf across the end"][1])
    assert (found.memslot, found.gfn, found.address) == (0, 1024 - 32, 0)
    (found,) = audit(BROKEN["host leaf behind the memslot"][1])
    assert (found.memslot, found.gfn) == (None, 1024)


def test_what_is_in_transition_is_told_and_not_judged() -> None:
    (found,) = audit(BROKEN["lock held"][1])
    assert (found.rule, found.severity, found.kvm) == ("vm.in-transition", INFO, KVM)


def test_the_page_of_a_shadow_leaf_may_be_any_of_a_huge_host_leaf() -> None:
    """Neither side of it: the page before and the page behind are nobody's."""
    huge = (0, 21, RWXRC | 4 * M2)
    pages = {4 * M2: True, 5 * M2 - PAGE: True, 4 * M2 - PAGE: False, 5 * M2: False}
    for page, mine in pages.items():
        leaves = [(N, 16, RWXRC | page)]
        known = state(vm(host=[huge], memslots=[slot()], nested=[guest(1, leaves)]))
        assert ("shadow.freed-page" in fired(known)) != mine, hex(page)


@pytest.mark.parametrize(
    ("path", "rules"),
    [
        ("vms[0].host_leaves", {"shadow.freed-page", "host.outside-memslot", "rmap.no-host-leaf"}),
        ("vms[0].memslots", {"host.outside-memslot"}),
    ],
)
def test_a_gap_suspends_the_rules_that_read_it_as_an_absence(path: str, rules: set[str]) -> None:
    known = vm(
        host=[(0, 16, RWXRC)],
        memslots=[replace(slot(chain(GFN, (1, N))), base_gfn=1)],
        nested=[guest(1, [(N, 16, RWXRC | HPA)])],
    )
    assert rules <= set(fired(state(known)))
    assert not rules & set(fired(state(known, problems=[Problem(path, "unreadable")])))


def test_many_findings_of_one_rule_are_cut_short() -> None:
    rows = np.zeros(5000, LEAF)
    rows["address"] = np.arange(5000, dtype=np.uint64) << np.uint64(16)
    rows["shift"], rows["pte"] = 16, RWXRC
    found = audit(state(replace(vm(), host_leaves=Leaves(rows))))
    assert len(found) == MAX_TOLD + 1
    assert found[-1].message == "further ones are not listed"


def test_an_orphan_has_its_own_address() -> None:
    orphan: NestedGuest = guest(1, address=0xC000_0000_0999_0000)
    known = state(replace(vm(nested=[guest(1, shadow_lpid=50)]), orphans=(orphan,)))
    found = [f for f in audit(known) if f.rule == "I6.orphan"]
    assert [(f.l1_lpid, f.address) for f in found] == [(1, 0xC000_0000_0999_0000)]


def test_chain_of_second_memslot_has_its_own_word() -> None:
    second = Memslot(7, 0x4000, 16, 0, 0, ARRAY, slot(chain(0x4003, (1, N))).rmap)
    found = [f for f in audit(state(vm(memslots=[slot(), second]))) if f.gfn is not None]
    assert [(f.rule, f.memslot, f.address) for f in found] == [
        ("rmap.no-host-leaf", 7, ARRAY + 8 * 3)
    ]
