"""A program is run in a VM of its own, and what is to meet runs at the same time."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from nestscope.plugin.differential.coverage.measure import run_plan
from nestscope.plugin.differential.plan import Plan
from nestscope.sim.events import Access, CreateVm, Event
from nestscope.sim.operations import Load, Together


class Recorder:
    """In the place of a lab and its machine: what was asked for, in order."""

    def __init__(self) -> None:
        self.alone: list[Event] = []
        self.together: list[list[Event]] = []
        self.commands: list[str] = []
        self.agent = SimpleNamespace(must=self.commands.extend)

    def execute(self, events: Sequence[Event]) -> None:
        self.alone += events

    def execute_together(self, events: Sequence[Event]) -> None:
        self.together.append(list(events))


def test_operations_at_the_same_time_are_not_run_one_after_the_other() -> None:
    recorder = Recorder()
    load = Load(1, 0x100_0000)
    plan = Plan("race", [load, Together((load, load))], 2, show=False)
    run_plan(cast(Any, recorder), cast(Any, recorder), plan)
    assert isinstance(recorder.alone[0], CreateVm)
    assert [e.vcpu for e in recorder.alone if isinstance(e, Access)] == [0]
    (pair,) = recorder.together
    assert [e.vcpu for e in pair if isinstance(e, Access)] == [0, 1]
    assert recorder.commands == ["destroy"]
