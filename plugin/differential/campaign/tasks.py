"""What a campaign hands to a lab machine, and what comes back. All of it can be pickled."""

from dataclasses import dataclass, field
from typing import Literal

from nestscope.plugin.differential.campaign.trouble import Trouble
from nestscope.sim.operations import Operation


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A kernel of `lab kernels` on a machine of the lab."""

    kernel: str
    machine: str

    def __str__(self) -> str:
        return f"{self.kernel} on {self.machine}"


@dataclass(frozen=True, slots=True)
class Options:
    """What is the same for all programs of a campaign.

    `via` as in `session.Via`. `defects` are names of seeded defects, put into every
    kernel that is booted. `coverage` names the signal that chooses the corpus.
    `shrink_tries` and `shrink_seconds` bound the shrinking of one finding.
    """

    via: str = "ram"
    defects: tuple[str, ...] = ()
    coverage: str = "steps"
    qemu: str = "qemu-system-ppc64"
    shrink_tries: int = 400
    shrink_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class RunTask:
    """Run one program. `name` is unique in the campaign and says where the program is from."""

    target: Target
    name: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class ShrinkTask:
    """Find the shortest program that shows the trouble `signature`, and record it."""

    target: Target
    signature: str
    operations: tuple[Operation, ...]


Task = RunTask | ShrinkTask

_BOOT_SECONDS = 120.0
_STEP_SECONDS = 3.0
_RUNS_TO_RECORD = 6


def longest_seconds(task: Task, options: Options) -> float:
    """Return how long a task may take on a slow machine before it is taken for stuck.

    A nested guest that finds no end is taken out after a second, a machine that is silent
    given up after nine; so this is for what nobody has thought of.
    """
    run = _BOOT_SECONDS + _STEP_SECONDS * len(task.operations)
    return run if isinstance(task, RunTask) else options.shrink_seconds + _RUNS_TO_RECORD * run


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """What running one program gave.

    `steps` were compared. `trouble` ended the program, at its last operation in
    `executed`; None if it ran to its end. `known` counts troubles that are declared
    (`known.py`) by their number. `refused` operations the guest could not do.
    `unmodelled` says why the model stopped. `blocks`: coverage that was new here.
    `compared`: sums of chains, rmap entries and leaves over all steps.
    """

    steps: int
    seconds: float
    executed: tuple[Operation, ...] = ()
    trouble: Trouble | None = None
    known: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    unmodelled: str | None = None
    blocks: frozenset[int] = frozenset()
    compared: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class ShrunkFinding:
    """A finding as it is written to its folder.

    `operations` show `trouble` at their last one; `tries` programs were run for it.
    `reproduced` is False if the original program did not show the trouble again:
    then the operations are the original ones. `files` are whole files by name. `defects`
    were put into that kernel on purpose.
    """

    trouble: Trouble
    operations: tuple[Operation, ...]
    tries: int
    seconds: float
    reproduced: bool
    release: str
    files: dict[str, bytes]
    defects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A task that could not be done; `why` is one sentence. `kind` says whether to try again."""

    why: str
    kind: Literal["lost", "impossible", "stopped"]


TaskResult = ProgramResult | ShrunkFinding | Failed
