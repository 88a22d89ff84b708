"""The campaign: hands tasks to jobs, keeps what comes back, ends in order."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.folder import CampaignFolder
from nestscope.plugin.differential.campaign.pool import Pool
from nestscope.plugin.differential.campaign.programs import Programs
from nestscope.plugin.differential.campaign.tasks import (
    Failed,
    ProgramResult,
    RunTask,
    ShrinkTask,
    ShrunkFinding,
    Target,
    Task,
    TaskResult,
)
from nestscope.plugin.differential.campaign.trouble import Trouble, of_lost

_WAIT_SECONDS = 0.25
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """When a campaign ends: programs for each target, or seconds of this run, or both.

    `first`: at the first finding, once it is shrunk.
    """

    programs: int | None = None
    seconds: float | None = None
    first: bool = False


@dataclass
class _Work:
    """A target's programs: the next one, how many were begun and ended, how long they took."""

    programs: Iterator[RunTask]
    begun: int = 0
    ended: int = 0
    seconds: float = 0.0


@dataclass
class Campaign:
    """Runs programs on targets until the limits. `watch` is called at least 4 times a second."""

    folder: CampaignFolder
    pool: Pool
    targets: Sequence[Target]
    programs: Programs
    limits: Limits
    watch: Callable[["Campaign"], None] = lambda _: None
    running: dict[str, Task] = field(default_factory=dict)
    stopping: bool = False
    _work: dict[Target, _Work] = field(default_factory=dict)
    _at: dict[str, Target] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    _again: list[Task] = field(default_factory=list)
    _lost: dict[Task, int] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def stop(self) -> None:
        """Begin nothing more; what runs is given up."""
        self.stopping = True

    def run(self) -> None:
        """Run to the limits, or until `stop`.

        Raises:
            NestscopeError: if it cannot go on. What was found is on the disk.
        """
        for target in self.targets:
            self._work[target] = _Work(self.programs.of(target, self.folder.corpus))
        self._again += self.folder.to_shrink()
        while not self.stopping:
            for slot in self.pool.slots:
                if slot not in self.running and (task := self._next(slot)) is not None:
                    self._begin(slot, task)
            if not self.running:
                return
            for slot, result in self.pool.wait(_WAIT_SECONDS):
                self._ended(slot, self.running.pop(slot), result)
            self.watch(self)

    def _begin(self, slot: str, task: Task) -> None:
        self.running[slot] = task
        self._at[slot] = task.target
        self._since.setdefault(slot, time.monotonic())
        self.pool.submit(slot, task)

    def _next(self, slot: str) -> Task | None:
        """Return the next task for a job: a finding first, then its own target's programs."""
        if self._again:
            here = [task for task in self._again if task.target == self._at.get(slot)]
            task = (here or self._again)[0]
            self._again.remove(task)
            return task
        if self._over():
            return None
        # A job stays with its target as long as there is work: another one is another boot.
        busy = [task.target for task in self.running.values()]
        order = sorted(
            self.targets, key=lambda each: (each != self._at.get(slot), busy.count(each))
        )
        programs = (self._next_program(target) for target in order)
        return next((task for task in programs if task is not None), None)

    def _next_program(self, target: Target) -> RunTask | None:
        """Return a target's next program that was not run before, None if its limit is reached."""
        work = self._work[target]
        while self._left(target):
            work.begun += 1
            task = next(work.programs)
            if (target, task.name) not in self.folder.done:
                return task
        return None

    def _over(self) -> bool:
        """Whether no more programs are begun, on whatever target."""
        if self.limits.first and self.folder.findings:
            return True
        seconds = self.limits.seconds
        return seconds is not None and time.monotonic() - self._started >= seconds

    def _left(self, target: Target) -> bool:
        """Whether a target has programs left, and time of its own."""
        work = self._work[target]
        if self.limits.programs is not None and work.begun >= self.limits.programs:
            return False
        if self.limits.seconds is None:
            return True
        share = self.limits.seconds * len(self.pool.slots) / len(self.targets)
        return work.seconds < share

    def _ended(self, slot: str, task: Task, result: TaskResult) -> None:
        # What lies between two tasks counts, too: a share is of time that passes.
        now = time.monotonic()
        self._work[task.target].seconds += now - self._since[slot]
        self._since[slot] = now
        match result:
            case ProgramResult():
                assert isinstance(task, RunTask)
                self._work[task.target].ended += 1
                self._take(task, result)
            case ShrunkFinding():
                assert isinstance(task, ShrinkTask)
                self.folder.keep_shrunk(self.folder.findings[task.signature], result)
            case Failed(why, "lost"):
                self._lost[task] = self._lost.get(task, 0) + 1
                if self._lost[task] < _TRIES:
                    self._again.append(task)
                else:
                    self._give_up(task, why)
            case Failed(why, "impossible"):
                raise NestscopeError(f"{task.target}: {why}")
            case Failed():
                pass  # stopped: a later run does it

    def _take(self, task: RunTask, result: ProgramResult) -> None:
        finding = self.folder.take(task, result)
        if finding is not None:
            self._again.append(self.folder.shrink_task(finding))

    def _give_up(self, task: Task, why: str) -> None:
        """Make a finding of a program that ends every job; others ran, so it is the program.

        Raises:
            NestscopeError: if nothing ran on the target: then it is the target.
        """
        if not self._work[task.target].ended:
            raise NestscopeError(f"{task.target}: given up after {_TRIES} tries: {why}")
        what = f"{why}, {_TRIES} times"
        if isinstance(task, RunTask):
            trouble = of_lost(what)
            self._take(task, ProgramResult(0, 0.0, task.operations, trouble))
            return
        trouble = Trouble("died", task.signature, what)
        lost = ShrunkFinding(trouble, task.operations, _TRIES, 0.0, False, "unknown", {})
        self.folder.keep_shrunk(self.folder.findings[task.signature], lost)
