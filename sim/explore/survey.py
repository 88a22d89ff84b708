"""Run scenarios through the explorer, and gather which rules their interleavings break."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from nestscope.sim import rmap
from nestscope.sim.explore.engine import History, Run, explore
from nestscope.sim.explore.scenarios import Scenario
from nestscope.sim.explore.world import ExploredWorld, copies_of
from nestscope.sim.invariants import Violation
from nestscope.sim.kvm import NestedGuest


@dataclass
class Broken:
    """A rule that interleavings of one scenario break; the shortest schedule seen says how.

    `lasting`: in some interleaving it is still broken when all operations are done.
    """

    scenario: Scenario
    violation: Violation
    schedule: tuple[int, ...]
    history: History
    lasting: bool = False

    @property
    def rule(self) -> str:
        """Id of the rule."""
        return self.violation.rule

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the operations."""
        return tuple(task.name for task in self.scenario.tasks)


@dataclass
class Survey:
    """What all scenarios together gave."""

    scenarios: int = 0
    states: int = 0
    interleavings: int = 0
    broken: list[Broken] = field(default_factory=list)
    stuck: list[tuple[Scenario, History]] = field(default_factory=list)
    unmodelled: list[tuple[Scenario, History, str]] = field(default_factory=list)


def survey(scenarios: Iterable[Scenario], progress: Callable[[], object] = lambda: None) -> Survey:
    """Explore every scenario; `progress` is called after each."""
    total = Survey()
    for scenario in scenarios:
        explore_one(scenario, total)
        progress()
    return total


def explore_one(scenario: Scenario, total: Survey) -> None:
    """Explore one scenario and add what it gave."""
    found: dict[str, Broken] = {}
    judged: dict[object, list[Violation]] = {}

    def visit(run: Run[ExploredWorld]) -> bool:
        world = run.world
        seen = world.fingerprint()
        if seen not in judged:
            judged[seen] = world.violations()
        for violation in judged[seen]:
            known = found.get(violation.rule)
            if known is None or len(run.schedule) < len(known.schedule):
                lasting = known is not None and known.lasting
                known = Broken(scenario, violation, run.schedule, run.history, lasting)
                found[violation.rule] = known
            known.lasting |= run.is_done()
        # What the kernel does with freed memory is anybody's guess.
        return not world.kvm.uses_after_free

    result = explore(copies_of(scenario.make()), scenario.tasks, visit)
    total.scenarios += 1
    total.states += result.states
    total.interleavings += result.interleavings
    total.broken += [found[rule] for rule in sorted(found)]
    total.stuck += [(scenario, history) for history in result.stuck]
    total.unmodelled += [(scenario, history, why) for history, why in result.unmodelled]


class Told(NamedTuple):
    """One section of an interleaving and what it changed: `(what, before, after)`."""

    task: str
    section: str
    changes: tuple[tuple[str, str, str], ...]


def retell(broken: Broken) -> list[Told]:
    """Run a broken interleaving again and tell each section with what it changed."""
    run = Run(copies_of(broken.scenario.make())(), broken.scenario.tasks)
    told = []
    before = facts_of(run.world)
    for number in broken.schedule:
        run.step(number)
        after = facts_of(run.world)
        changed = [what for what in {**before, **after} if before.get(what) != after.get(what)]
        told.append(
            Told(
                *run.history[-1],
                tuple(
                    (what, before.get(what, "none"), after.get(what, "none")) for what in changed
                ),
            )
        )
        before = after
    return told


def facts_of(world: ExploredWorld) -> dict[str, str]:
    """Return what people want to see change: leaves, chains, nested guests, words of tables."""
    kvm = world.kvm
    facts = {}
    for gpa, shift, pte in kvm.pgtable.leaves():
        facts[f"host leaf {gpa:#x}"] = f"{pte:#018x}, 2^{shift} bytes"
    for nested in kvm.nested.values():
        facts |= nested_facts(nested, f"nested guest {nested.l1_lpid}", "in the idr")
    for nested in world.orphans():
        facts |= nested_facts(nested, f"nested guest {nested.l1_lpid}", "not in the idr")
    for memslot in kvm.memslots:
        for index, chain in memslot.rmap.items():
            entries = [rmap.unpack(word) for word in rmap.stored_words(chain)]
            text = ", ".join(f"({l1_lpid}, {n_gpa:#x})" for l1_lpid, n_gpa in entries)
            facts[f"chain of gfn {memslot.base_gfn + index:#x}"] = text
        facts[f"slot {memslot.id}"] = f"flags {memslot.flags:#x}"
    for at, word in world.written.items():
        facts[f"guest's table word {at:#x}"] = f"{word:#x}"
    facts["mmu_invalidate_seq"] = str(kvm.mmu_invalidate_seq)
    facts["mmu_invalidate_in_progress"] = str(kvm.mmu_invalidate_in_progress)
    for number, text in enumerate(kvm.uses_after_free):
        facts[f"use after free {number + 1}"] = text
    return facts


def nested_facts(nested: NestedGuest, name: str, place: str) -> dict[str, str]:
    """Return a nested guest's part of `facts_of`."""
    facts = {name: f"{place}, refcnt {nested.refcnt}, l1_gr_to_hr {nested.l1_gr_to_hr:#x}"}
    for n_gpa, _, pte in nested.shadow.leaves():
        facts[f"shadow leaf {n_gpa:#x} of {name}"] = f"{pte:#018x}"
    return facts
