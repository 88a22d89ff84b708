"""The explorer over every pair of operations: what breaks, and that repairs make it vanish."""

import re
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from nestscope.sim import create, dirty, fault, tlbie, unmap
from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.explore.engine import Run, explore
from nestscope.sim.explore.kinds import KINDS, kind_of
from nestscope.sim.explore.scenarios import STARTS, Scenario, long, more, operations, pairs
from nestscope.sim.explore.survey import Broken, Survey, retell, survey
from nestscope.sim.explore.world import ExploredWorld, copies_of
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.steps import Steps
from nestscope.sim.tree import RadixTree

DOCS = Path(__file__).parents[3] / "docs"

Tasks = frozenset[str]
NAMES = (
    "fault (store)",
    "tlbie",
    "unmap",
    "flush RIC=0",
    "flush RIC=2",
    "flush RIC=2 of all",
    "dirty clear",
    "slot delete",
    "drop",
)


@pytest.fixture(scope="module")
def everything() -> Survey:
    return survey([*pairs(), *more()])


def kinds_by_tasks(found: Survey) -> dict[Tasks, set[str]]:
    result: dict[Tasks, set[str]] = {}
    for one in found.broken:
        kind = kind_of(one.rule, one.tasks)
        name = kind.id if kind else f"{one.rule}?"
        result.setdefault(frozenset(one.tasks), set()).add(name)
    return result


def test_every_pair_runs_on_every_starting_state_with_and_without_another_vcpu() -> None:
    assert tuple(task.name for task in operations()) == NAMES
    ran = [(tuple(sorted(t.name for t in s.tasks)), s.start) for s in pairs()]
    assert len(set(ran)) == len(ran) == 45 * 4 * 2
    wanted = {tuple(sorted(pair)) for pair in combinations_with_replacement(NAMES, 2)}
    assert {pair for pair, _ in ran} == wanted


def test_what_breaks_is_exactly_what_is_known(everything: Survey) -> None:
    expected = {frozenset({name, "drop"}): {"orphan"} for name in NAMES}
    expected[frozenset({"fault (store)", "dirty clear"})] = {"lost-dirty"}
    expected[frozenset({"flush RIC=2 of all", "drop"})] |= {"flush-all-uaf"}
    expected[frozenset({"fault (store)", "drop and reuse", "unmap"})] = {"orphan", "orphan-leaf"}
    expected[frozenset({"guest fault", "logging off"})] = {"host-number"}
    expected[frozenset({"drop by an invalidation of all"})] = {"flush-all-uaf"}
    assert kinds_by_tasks(everything) == expected


def test_nothing_was_left_out(everything: Survey) -> None:
    assert everything.stuck == []
    assert everything.unmodelled == []
    assert everything.scenarios == len(pairs()) + len(more())
    assert everything.interleavings > 500_000


def test_what_lasts_is_told_from_what_passes(everything: Survey) -> None:
    lasting = {kind_of(b.rule, b.tasks).id for b in everything.broken if b.lasting}  # type: ignore[union-attr]
    assert lasting == {"lost-dirty", "orphan", "host-number"}


def example(found: Survey, kind: str) -> Broken:
    mine = [b for b in found.broken if (k := kind_of(b.rule, b.tasks)) and k.id == kind]
    return min(mine, key=lambda b: len(b.schedule))


def test_a_broken_interleaving_is_told_step_by_step(everything: Survey) -> None:
    """The race of a store with the dirty log, in the order in which it must happen."""
    told = retell(example(everything, "lost-dirty"))
    sections = [f"{step.task}: {step.section}" for step in told]
    read, clear, written = (
        sections.index("fault (store): find the host leaf"),
        sections.index("dirty clear: clear C"),
        len(sections) - 1,
    )
    assert read < clear < written
    assert sections[written] == "fault (store): set the leaf"
    (cleared,) = told[clear].changes
    assert cleared[0] == "host leaf 0xa00000"
    assert int(cleared[1].split(",")[0], 16) ^ int(cleared[2].split(",")[0], 16) == 0x80
    assert [change[0] for change in told[written].changes] == [
        "shadow leaf 0x1000000 of nested guest 1",
        "chain of gfn 0xa0",
    ]


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", long(), ids=lambda scenario: scenario.start)
def test_two_nested_guests_and_the_host_break_nothing(scenario: Scenario) -> None:
    found = survey([scenario])
    assert found.broken == found.stuck == found.unmodelled == []
    assert found.states > 1000


def test_the_report_in_the_docs_explains_every_kind_and_pair() -> None:
    report = (DOCS / "interleavings.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"### {kind.id}: {kind.title}\n" in report
        assert kind.text in report
        if kind.finding:
            assert (DOCS / "findings" / kind.finding).is_file()
            assert kind.finding in (DOCS / "findings" / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"| **{name}** |" in report
    assert "not understood" not in report.lower()


Patch = pytest.MonkeyPatch


def count_up_when_clearing(patch: Patch) -> None:
    """Suraj Singh's patch of 2019: "Increment mmu_notifier_seq when modifying ... rc bits"."""
    original = dirty.test_clear_dirty

    def repaired(vm: Kvm, memslot: Memslot, gpa: int) -> bool:
        changed = original(vm, memslot, gpa)
        vm.mmu_invalidate_seq += changed
        return changed

    patch.setattr(dirty, "test_clear_dirty", repaired)


def reload_only_while_in_the_idr(patch: Patch) -> None:
    """A dropped nested guest stays without a tree."""
    original = fault.update_ptbl_cache

    def repaired(vm: Kvm, nested: NestedGuest) -> None:
        if vm.nested.get(nested.l1_lpid) is nested:
            original(vm, nested)

    patch.setattr(fault, "update_ptbl_cache", repaired)


def hold_a_reference(patch: Patch) -> None:
    """Linux commit 51938dfa8a51."""

    def repaired(vm: Kvm, ric: int) -> Steps[None]:
        last = -1
        while True:
            yield "find the next nested guest"
            following = [l1_lpid for l1_lpid in vm.nested if l1_lpid > last]
            if not following:
                return
            last = min(following)
            nested = vm.nested[last]
            nested.refcnt += 1
            yield from tlbie.tlbie_lpid(vm, nested, ric)
            yield from tlbie.put_nested(vm, nested)

    patch.setattr(tlbie, "tlbie_all_lpid", repaired)


def free_with_the_guest_address(patch: Patch) -> None:
    """`kvmppc_unmap_free_pte` told where its table is."""

    def repaired(vm: Kvm, tree: RadixTree, address: int) -> None:
        block = address >> PMD_SHIFT
        for key in [k for k in tree.ptes if k << vm.page_shift >> PMD_SHIFT == block]:
            unmap.unmap_pte(vm, tree, key << vm.page_shift, 0)
        tree.pte_tables.discard(block)

    patch.setattr(create, "free_pte_table", repaired)


REPAIRS: dict[str, Callable[[Patch], None]] = {
    "lost-dirty": count_up_when_clearing,
    "orphan-leaf": reload_only_while_in_the_idr,
    "flush-all-uaf": hold_a_reference,
    "host-number": free_with_the_guest_address,
}


def involved(kind: str) -> list[Scenario]:
    """The scenarios whose operations can break in this way."""
    (wanted,) = [k for k in KINDS if k.id == kind]
    rule = min(wanted.rules)
    return [s for s in [*pairs(), *more()] if wanted.covers(rule, [t.name for t in s.tasks])]


@pytest.mark.parametrize("kind", REPAIRS)
def test_a_repair_of_the_model_makes_its_kind_vanish_and_breaks_nothing(
    kind: str, monkeypatch: Patch
) -> None:
    before = survey(involved(kind))
    assert kind in set().union(*kinds_by_tasks(before).values())
    REPAIRS[kind](monkeypatch)
    after = survey(involved(kind))
    left = kinds_by_tasks(after).values()
    assert set().union(*left) <= {"orphan"}
    assert after.unmodelled == after.stuck == []


def test_a_missing_check_in_the_model_is_found(monkeypatch: Patch) -> None:
    """Without `mmu_invalidate_retry` an unmap in the middle of a fault is not noticed."""
    fault_and_unmap = [s for s in pairs() if s.name == "fault (store) x unmap"]
    assert survey(fault_and_unmap).broken == []
    monkeypatch.setattr(Kvm, "invalidated_since", lambda _vm, _mmu_seq: False)
    found = survey(fault_and_unmap)
    assert {(one.rule, kind_of(one.rule, one.tasks)) for one in found.broken} >= {("I2", None)}


def interrupts(run: Run[ExploredWorld]) -> bool:
    """Whether the tlbie cleared leaves between two sections of one fault."""
    text = " | ".join(str(section) for section in run.history)
    between = r"find the host leaf((?!set the leaf).)*invalidate a shadow leaf"
    return bool(re.search(between, text))


def test_a_lock_that_is_not_taken_lets_a_tlbie_into_the_fault(monkeypatch: Patch) -> None:
    (scenario,) = [s for s in pairs(STARTS[1:2]) if s.name == "fault (store) x tlbie"][:1]

    def seen() -> set[bool]:
        found: set[bool] = set()

        def visit(run: Run[ExploredWorld]) -> bool:
            found.add(interrupts(run))
            return True

        explore(copies_of(scenario.make()), scenario.tasks, visit)
        return found

    assert seen() == {False}

    def no_lock(vm: Kvm, nested: NestedGuest) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(fault, "lock_tlb", no_lock)
    assert seen() == {False, True}
