"""The invariants on a real kernel: kept in ordinary runs, broken where a finding says so."""

from itertools import islice, permutations

import pytest

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.plugin.differential.session import LiveComparison, open_comparison
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.events import Discard
from nestscope.sim.generate import random_operations
from nestscope.sim.invariants import Violation, violations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
from nestscope.sim.profile import CALM
from nestscope.sim.trace import parse

pytestmark = pytest.mark.kernel

PAGE = 0x1_0000
GPA = 0x90_0000
N = 0x100_0000

# Every nested guest has its code at nested address 0, so the page of the code gets these.
ZERO_ENTRY_IN_A_CHAIN = [
    f"ptcr {LAYOUT.ptcr:#x}",
    f"map 1 {N:#x} {GPA:#x} 64K rwxRC",
    f"load 1 {N:#x}",
    f"map 0 {N:#x} {GPA:#x} 64K rwxRC",
    f"load 0 {N:#x}",
    f"map 2 {N:#x} {GPA:#x} 64K rwxRC",
    f"load 2 {N:#x}",
]


def judged(lab: Lab, live: LiveComparison) -> list[Violation]:
    return violations(live.machine.state(), rc_by_hardware=lab.behaviour.sets_rc)


def execute(live: LiveComparison, operation: Operation) -> None:
    """Let only the real kernel do it: the model refuses what finding 0002 needs."""
    live.machine.execute(live.comparison.guest.lower(operation))


def run(live: LiveComparison, *lines: str) -> None:
    for operation in parse("\n".join(["nestscope-trace 1", *lines])):
        execute(live, operation)


@pytest.mark.parametrize("seed", [1, 21])
def test_random_runs_keep_every_rule(clean_lab: Lab, seed: int) -> None:
    """Without nested guest 0: its entry for address 0 is finding 0001."""
    entries = 0
    with open_comparison(clean_lab) as live:
        operations = random_operations(seed, LAYOUT, CALM)
        ordinary = (each for each in operations if getattr(each, "l1_lpid", None) != 0)
        for operation in islice(ordinary, 300):
            step = live.comparison.step(operation)
            found = violations(step.observed, rc_by_hardware=clean_lab.behaviour.sets_rc)
            assert found == [], f"step {step.number}"
            entries = max(entries, *(len(m.rmap.entries) for m in step.observed.vms[0].memslots))
    assert entries > 20


def test_finding_0001_breaks_i5_and_then_i1(clean_lab: Lab) -> None:
    code = LAYOUT.payload // PAGE
    with open_comparison(clean_lab) as live:
        run(live, *ZERO_ENTRY_IN_A_CHAIN)
        assert [(v.rule, v.gfn, v.l1_lpid) for v in judged(clean_lab, live)] == [("I5", code, 0)]
        live.machine.execute([Discard(LAYOUT.payload, PAGE)])
        found = judged(clean_lab, live)
    assert [(v.rule, v.l1_lpid, v.n_gpa) for v in found] == [("I1", 0, 0), ("I1", 1, 0)]


def test_finding_0002_breaks_i2(clean_lab: Lab) -> None:
    """The kernel ORs the page numbers of the old and the new host page.

    The two are chosen so that the result is a page of this test: any other might be
    the kernel's own.
    """
    pages = [GPA + at * PAGE for at in range(32)]
    with open_comparison(clean_lab) as live:
        run(live, f"ptcr {LAYOUT.ptcr:#x}")
        for gpa in pages:
            run(live, f"write {gpa:#x} 1", f"map 1 {N + gpa:#x} {gpa:#x} 64K rR")
            run(live, f"load 1 {N + gpa:#x}")
        (vm,) = live.machine.state().vms
        frames = {leaf.address: leaf.pte & PTE_RPN for leaf in vm.host_leaves}
        own = {frames[gpa] for gpa in pages}
        old, new = next(
            (old, new)
            for old, new in permutations(pages, 2)
            if frames[old] | frames[new] in own - {frames[old]}
        )
        assert judged(clean_lab, live) == []
        run(live, f"map 1 {N + old:#x} {new:#x} 64K rwRC", f"store 1 {N + old:#x} 0x77")
        found = judged(clean_lab, live)
    assert [(v.rule, v.n_gpa, v.gfn) for v in found] == [("I2", N + old, old // PAGE)]
    assert found[0].address == frames[old] | frames[new]
