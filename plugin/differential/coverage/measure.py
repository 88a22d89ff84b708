"""Run programs in a booted kernel, without the model, and count which blocks ran."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nestscope.plugin.differential.coverage.blocks import FunctionBlocks
from nestscope.plugin.differential.coverage.coverage import OBJECTIVE, open_coverage
from nestscope.plugin.differential.coverage.module_text import ModuleText
from nestscope.plugin.differential.plan import Plan
from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest

_TRACES = Path(__file__).parent / "traces"


def shipped_traces() -> list[Path]:
    """Return the traces that were written to cover the functions of `OBJECTIVE`."""
    return sorted(_TRACES.glob("*.trace"))


def measure(
    lab: Lab,
    text: ModuleText,
    plans: Iterable[Plan],
    patterns: Sequence[str] = OBJECTIVE,
    progress: Callable[[Plan, int], None] = lambda _plan, _new: None,
) -> tuple[list[FunctionBlocks], Counter[int]]:
    """Run each plan in a VM of its own; return the functions, and how often each block ran.

    `progress` is told each plan and how many blocks it reached first. The lab must
    have been booted with `coverage`.

    Raises:
        NestscopeError: if something is missing, or the agent cannot do an operation.
    """
    with (
        open_machine(lab) as live,
        open_coverage(lab, live.machine.kernel, patterns, text) as coverage,
    ):
        for plan in plans:
            guest = Guest()
            live.machine.execute(guest.setup())
            for operation in plan.operations:
                live.machine.execute(guest.lower(operation))
            lab.agent.must(["destroy"])
            progress(plan, len(coverage.new_blocks()))
        return list(coverage.functions), Counter(coverage.counts())
