"""Run a plan step by step, to its end or to what must not be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from nestscope.plugin.differential.inject import flip_rmap_word
from nestscope.plugin.differential.one_side import OneSide
from nestscope.plugin.differential.plan import Plan
from nestscope.plugin.differential.runner import REFUSED, Comparison, Step
from nestscope.plugin.differential.session import LiveComparison
from nestscope.plugin.qemu.errors import LabFailure
from nestscope.sim.invariants import Violation, violations
from nestscope.sim.operations import Operation


@dataclass
class Outcome:
    """How far a plan came.

    `done` are the operations that ran, `last` is the step of the last one. `refused` are
    those that no guest or VMM can do, with the reason: they were left out. `broken`:
    invariants that the last State breaks, or in an order the State after one of its turns.
    `failure`: how the kernel ended in the last of `done`, which then has no step.
    """

    done: list[Operation] = field(default_factory=list)
    last: Step | None = None
    refused: list[tuple[Operation, str]] = field(default_factory=list)
    broken: list[Violation] = field(default_factory=list)
    failure: LabFailure | None = None


@dataclass(frozen=True)
class Inject:
    """Flip bits of an rmap word of a live kernel after step `number`."""

    number: int
    live: LiveComparison


def replay(
    run: Comparison | OneSide,
    plan: Plan,
    watch: Callable[[Step | None, Step | None], object],
    *,
    audit_rc: bool | None = None,
    inject: Inject | None = None,
) -> Outcome:
    """Run operations until model and kernel differ, the State breaks an invariant, or it ends.

    `watch(step, last)` is called after each operation, with None for one that was refused.
    Invariants are looked at if `audit_rc` is not None: whether hardware sets R and C.

    Raises:
        NestscopeError: if QEMU or the agent end, or the model has no specification.
    """
    outcome = Outcome()
    for operation in plan.operations:
        number = len(outcome.done) + 1
        now = inject is not None and inject.number == number
        disturb = partial(flip_rmap_word, inject.live) if inject is not None and now else None
        try:
            step = run.step(operation, disturb)
        except REFUSED as problem:
            outcome.refused.append((operation, str(problem)))
            watch(None, outcome.last)
            continue
        except LabFailure as failure:
            if failure.kind == "died":
                raise  # somebody ended QEMU, or QEMU itself did
            outcome.done.append(operation)
            outcome.failure = failure
            break
        outcome.done.append(operation)
        watch(step, outcome.last)
        outcome.last = step
        if audit_rc is not None:
            for state in (*step.held, step.observed):
                found = violations(state, rc_by_hardware=audit_rc)
                outcome.broken += [one for one in found if one not in outcome.broken]
        if step.differences or outcome.broken:
            break
    return outcome
