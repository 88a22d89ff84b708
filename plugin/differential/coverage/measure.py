"""Run programs in a booted kernel, without the model, and count which blocks ran."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from nestscope.plugin.differential.coverage.blocks import FunctionBlocks
from nestscope.plugin.differential.coverage.coverage import OBJECTIVE, open_coverage
from nestscope.plugin.differential.coverage.failures import fail_allocations
from nestscope.plugin.differential.coverage.module_text import ModuleText
from nestscope.plugin.differential.lab_machine import LabMachine
from nestscope.plugin.differential.one_side import run_operation
from nestscope.plugin.differential.plan import Plan
from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest

_TRACES = Path(__file__).parent / "traces"


def shipped_traces() -> list[Path]:
    """Return the traces that were written to cover the functions of `OBJECTIVE`."""
    return sorted(_TRACES.glob("[0-9]-*.trace"))


def shipped_storm() -> Path:
    """Return the trace that was written to be interrupted."""
    return _TRACES / "storm.trace"


def measure(
    lab: Lab,
    text: ModuleText,
    plans: Sequence[Plan],
    patterns: Sequence[str] = OBJECTIVE,
    *,
    storm: Sequence[Plan] = (),
    failures: bool = False,
    progress: Callable[[str, int], None] = lambda _what, _new: None,
) -> tuple[list[FunctionBlocks], Counter[int]]:
    """Run each plan in a VM of its own; return the functions, and how often each block ran.

    Then the plans of `storm` run while a second processor interrupts the first all the
    time: only so do unlocks meet a write to an interrupt controller that they must
    order (mmiowb). With `failures` allocations fail at last, through GDB,
    which changes registers of the live kernel. `progress` is told what was run and how
    many blocks it reached first. The lab must have been booted with `coverage`, and for
    a storm with two processors.

    Raises:
        NestscopeError: if something is missing, or the agent cannot do an operation.
    """
    with (
        open_machine(lab) as live,
        open_coverage(lab, live.machine.kernel, patterns, text) as coverage,
    ):
        for plan in plans:
            run_plan(lab, live.machine, plan)
            progress(plan.name, len(coverage.new_blocks()))
        if storm:
            lab.agent.must(["storm 1"])
            for plan in storm:
                run_plan(lab, live.machine, plan)
            progress(f"{len(storm)} programs in a storm", len(coverage.new_blocks()))
            lab.agent.must(["storm 0"])
        if failures:
            count = fail_allocations(lab, live.machine, coverage.functions)
            progress(f"{count} allocations failed", len(coverage.new_blocks()))
        return list(coverage.functions), Counter(coverage.counts())


def run_plan(lab: Lab, machine: LabMachine, plan: Plan) -> None:
    """Run a plan in a new VM, without looking at what it did, and end the VM.

    Raises:
        NestscopeError: if the agent cannot do an operation.
    """
    guest = Guest()
    machine.execute(guest.setup())
    for operation in plan.operations:
        run_operation(machine, guest, operation)
    lab.agent.must(["destroy"])
