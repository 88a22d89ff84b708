"""Run one program in a station and judge every step."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nestscope.decoders.audit.finding import ERROR
from nestscope.plugin.differential.campaign.known import Context, explain_warning
from nestscope.plugin.differential.campaign.station import Booted, Station
from nestscope.plugin.differential.campaign.tasks import ProgramResult
from nestscope.plugin.differential.campaign.trouble import (
    Trouble,
    of_agent_error,
    of_differences,
    of_failure,
    of_violation,
    of_warning,
)
from nestscope.plugin.differential.runner import REFUSED, Comparison, Step
from nestscope.plugin.mi.errors import MiError
from nestscope.plugin.qemu.errors import LabError, LabFailure
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.invariants import Violation, violations
from nestscope.sim.operations import Operation


class StoppedError(Exception):
    """The campaign ends: the program is given up between two steps."""


class StationLostError(Exception):
    """The machine or its debugger ended from outside; the text says how. It can be tried again."""


@dataclass
class Judge:
    """Judges the steps of one program: what is wrong and new, what is known."""

    booted: Booted
    context: Context = field(default_factory=Context)
    known: dict[str, int] = field(default_factory=dict)
    _told: set[tuple[object, ...]] = field(default_factory=set)

    def judge(self, step: Step) -> Trouble | None:
        """Return the first trouble of a step that is not known, None if there is none."""
        broken = self._broken(step)
        if step.differences:
            return of_differences(step.differences, step.operation, tuple(broken))
        if broken:
            return of_violation(broken[0], tuple(broken), step.operation)
        return self.warnings()

    def warnings(self) -> Trouble | None:
        """Return the first new WARNING of the kernel that is not known."""
        for headline in self.booted.new_warnings():
            trouble = of_warning(headline, self.booted.lab.console_tail())
            known = explain_warning(trouble)
            if known is None:
                return trouble
            self._count(known.number)
        return None

    def _broken(self, step: Step) -> list[Violation]:
        """Return the invariants that are newly broken and that no finding explains."""
        broken = violations(step.observed, rc_by_hardware=self.booted.facts.rc_by_hardware)
        self.context.learn(step.observed)
        new = []
        for violation in broken:
            key = (violation.rule, violation.gfn, violation.l1_lpid, violation.n_gpa)
            if violation.severity != ERROR or key in self._told:
                continue
            self._told.add(key)  # a broken invariant stays broken: it is one trouble
            known = self.context.explain(violation, step.mixed)
            if known is not None:
                self._count(known.number)
            else:
                new.append(violation)
        return new

    def _count(self, number: str) -> None:
        self.known[number] = self.known.get(number, 0) + 1


def run_program(
    station: Station,
    operations: Sequence[Operation],
    stop: Callable[[], bool] = lambda: False,
) -> ProgramResult:
    """Run a program in a clean VM until its end or the first trouble that is not known.

    `stop` is asked before every step. After a failure of the machine the station boots
    again for the next program.

    Raises:
        StoppedError: if `stop` said so.
        StationLostError: if QEMU or GDB were killed from outside.
        NestscopeError: if the machine cannot be booted.
    """
    booted = station.booted()
    started = time.monotonic()
    run = _Run(station)
    try:
        comparison = station.fresh()
        run.judge = Judge(booted)
        run.steps(comparison, operations, stop)
    except LabFailure as failure:
        station.retire()
        if _killed(failure):
            raise StationLostError(str(failure)) from failure
        run.trouble = of_failure(failure)
    except MiError as error:
        station.close()
        raise StationLostError(str(error)) from error
    except BaseException:
        # Whatever it was, the VM is in the middle of something.
        station.close()
        raise
    known = run.judge.known if run.judge else {}
    return ProgramResult(
        steps=run.compared,
        seconds=time.monotonic() - started,
        executed=tuple(run.executed),
        trouble=run.trouble,
        known=known,
        refused=run.refused,
        unmodelled=run.unmodelled,
        blocks=station.new_blocks(),
        compared=run.amounts,
    )


@dataclass
class _Run:
    """How far a program has come."""

    station: Station
    judge: Judge | None = None
    executed: list[Operation] = field(default_factory=list)
    trouble: Trouble | None = None
    unmodelled: str | None = None
    refused: int = 0
    compared: int = 0
    amounts: tuple[int, int, int] = (0, 0, 0)

    def steps(
        self,
        comparison: Comparison,
        operations: Sequence[Operation],
        stop: Callable[[], bool],
    ) -> None:
        assert self.judge is not None
        for operation in operations:
            if stop():
                raise StoppedError
            self.executed.append(operation)
            try:
                step = comparison.step(operation, self.station.disturbance(self.compared + 1))
            except REFUSED:
                # What another operation left is missing, or no VMM could ask for this.
                self.executed.pop()
                self.refused += 1
                continue
            except UnmodelledError as problem:
                self.unmodelled = problem.what
                return
            except LabError as problem:
                self.trouble = of_agent_error(str(problem))
                self.station.retire()
                return
            self.compared += 1
            self.station.signal.note(step)
            tally = comparison.tally
            self.amounts = (tally.chains, tally.entries, tally.leaves)
            self.trouble = self.judge.judge(step)
            if self.trouble is not None:
                return


def _killed(failure: LabFailure) -> bool:
    """Say whether QEMU was ended by a signal that a person or the system sends."""
    signs = ("signal 1)", "signal 2)", "signal 9)", "signal 15)", "keeper was killed")
    return failure.kind == "died" and any(sign in failure.what for sign in signs)
