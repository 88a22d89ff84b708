"""Which operations a run has: a trace file, random ones, or the built-in scenario."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT, VCPUS
from nestscope.sim.operations import Operation, Order, Together

_SHOWN_STEPS = 60


@dataclass(frozen=True)
class Plan:
    """What to run: a name for files, the operations, how many, whether each is shown.

    `processors`: how many the machine needs so that all can happen.
    """

    name: str
    operations: Iterable[Operation]
    total: int
    show: bool
    processors: int = 1


def make_plan(trace: Path | None, random_steps: int | None, seed: int) -> Plan:
    """Return the plan of a trace file, of `random_steps` random operations, or the scenario.

    Raises:
        NestscopeError: if both are asked for, or the trace cannot be read.
    """
    if trace is not None and random_steps is not None:
        raise NestscopeError("give a trace or --random, not both")
    if random_steps is not None:
        operations = islice(random_operations(seed, LAYOUT), random_steps)
        return Plan(f"seed{seed}", operations, random_steps, show=False)
    if trace is None:
        return Plan("scenario", SCENARIO, len(SCENARIO), show=True)
    listed = read_trace(trace)
    show = len(listed) <= _SHOWN_STEPS
    return Plan(trace.stem, listed, len(listed), show, processors_for(listed))


def processors_for(operations: Iterable[Operation]) -> int:
    """Return how many processors a machine needs for operations that meet each other."""
    kinds = {type(operation) for operation in operations}
    # Whoever is held keeps a processor busy, and the VMM needs one, too.
    return VCPUS + 1 if Order in kinds else VCPUS if Together in kinds else 1
