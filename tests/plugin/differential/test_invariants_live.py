"""The invariants on a real kernel: kept in ordinary runs, broken where a finding says so."""

from itertools import islice

import pytest

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.plugin.differential.session import LiveComparison, open_comparison
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.events import Discard
from nestscope.sim.generate import random_operations
from nestscope.sim.invariants import Violation, violations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
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
    return violations(live.machine.state(), rc_by_hardware=lab.hardware_sets_rc)


def execute(live: LiveComparison, operation: Operation) -> None:
    """Let only the real kernel do it: the model refuses what finding 0002 needs."""
    live.machine.execute(live.comparison.guest.lower(operation))


def run(live: LiveComparison, *lines: str) -> None:
    for operation in parse("\n".join(["nestscope-trace 1", *lines])):
        execute(live, operation)


@pytest.mark.parametrize("seed", [1, 21])
def test_random_runs_keep_every_rule(clean_lab: Lab, seed: int) -> None:
    entries = 0
    with open_comparison(clean_lab) as live:
        for operation in islice(random_operations(seed, LAYOUT), 300):
            step = live.comparison.step(operation)
            found = violations(step.observed, rc_by_hardware=clean_lab.hardware_sets_rc)
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
    """The kernel ORs the page numbers, so the leaf is wrong where that gives a third one."""
    pairs = [(GPA + 2 * at * PAGE, GPA + (2 * at + 1) * PAGE) for at in range(8)]
    with open_comparison(clean_lab) as live:
        run(live, f"ptcr {LAYOUT.ptcr:#x}")
        for at, (old, new) in enumerate(pairs):
            n_gpa = N + at * PAGE
            run(live, f"write {old:#x} 1", f"write {new:#x} 1")
            run(live, f"map 1 {n_gpa:#x} {old:#x} 64K rR", f"load 1 {n_gpa:#x}")
            run(live, f"map 1 {n_gpa:#x} {new:#x} 64K rwRC")
        assert judged(clean_lab, live) == []
        for at in range(len(pairs)):
            run(live, f"store 1 {N + at * PAGE:#x} 0x77")
        (vm,) = live.machine.state().vms
        found = judged(clean_lab, live)
    frames = {leaf.address: leaf.pte & PTE_RPN for leaf in vm.host_leaves}
    mixed = [
        (N + at * PAGE, old // PAGE)
        for at, (old, new) in enumerate(pairs)
        if frames[old] | frames[new] != frames[old]
    ]
    assert mixed
    assert [(v.n_gpa, v.gfn) for v in found if v.rule == "I2"] == mixed
