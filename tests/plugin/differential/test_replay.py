"""A plan run step by step: what ends it, and what is left out."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from nestscope.decoders.compare import Difference
from nestscope.decoders.state import KernelInfo, Source, State
from nestscope.plugin.differential.plan import Plan
from nestscope.plugin.differential.replay import replay
from nestscope.plugin.differential.runner import Comparison, Step
from nestscope.plugin.qemu.errors import LabError, LabFailure, RefusedError
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.operations import Load, Operation

PROGRAM = tuple(Load(1, n << 16) for n in range(4))
EMPTY = State(Source("model", "model"), KernelInfo(None, 16), ())
PLAN = Plan("four", PROGRAM, len(PROGRAM), show=False)


class Scripted(Comparison):
    """Steps without model and machine; at one operation something happens."""

    def __init__(self, at: Operation, error: Exception | None, *differences: Difference) -> None:
        self.at, self.error, self.seen = at, error, differences
        self.count = 0

    def step(self, operation: Operation, disturb: Callable[[], object] | None = None) -> Step:
        assert disturb is None
        if operation == self.at and self.error is not None:
            raise self.error
        self.count += 1
        step = Step(self.count, operation, (), EMPTY, ())
        return replace(step, differences=self.seen) if operation == self.at else step


def test_a_plan_runs_to_its_end() -> None:
    watched: list[Step | None] = []
    outcome = replay(Scripted(Load(9, 0), None), PLAN, lambda step, _: watched.append(step))
    assert tuple(outcome.done) == PROGRAM
    assert watched[-1] is outcome.last
    assert (outcome.refused, outcome.broken, outcome.failure) == ([], [], None)


@pytest.mark.parametrize("error", [RefusedError("no-slot"), GuestLayoutError("no VM")])
def test_what_is_refused_is_left_out_and_told(error: Exception) -> None:
    watched: list[Step | None] = []
    run = Scripted(PROGRAM[1], error)
    outcome = replay(run, PLAN, lambda step, _: watched.append(step))
    assert tuple(outcome.done) == (PROGRAM[0], *PROGRAM[2:])
    assert outcome.refused == [(PROGRAM[1], str(error))]
    assert [step is None for step in watched] == [False, True, False, False]


def test_a_difference_is_the_end() -> None:
    difference = Difference("vms.lpid", "1", "2")
    outcome = replay(Scripted(PROGRAM[1], None, difference), PLAN, lambda *_: None)
    assert tuple(outcome.done) == PROGRAM[:2]
    assert outcome.last is not None
    assert outcome.last.differences == (difference,)


def test_a_kernel_that_ends_is_what_the_plan_shows() -> None:
    oops = LabFailure("oops", "the kernel says 'Oops'", "NIP [c0] f+0x4/0x8")
    outcome = replay(Scripted(PROGRAM[2], oops), PLAN, lambda *_: None)
    assert tuple(outcome.done) == PROGRAM[:3]
    assert outcome.failure is oops
    assert outcome.last is not None
    assert outcome.last.operation == PROGRAM[1]


@pytest.mark.parametrize("error", [LabFailure("died", "QEMU was killed", ""), LabError("mmap")])
def test_what_is_no_answer_of_the_kernel_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        replay(Scripted(PROGRAM[2], error), PLAN, lambda *_: None)
