"""Run operations on one side only: on the model, or on a kernel. Nothing is compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Protocol

from nestscope.decoders.state import State
from nestscope.plugin.differential.order.model import Ran, model_in_order
from nestscope.plugin.differential.runner import Step, Tally
from nestscope.plugin.qemu.machine import find_machine
from nestscope.sim.events import Event, Result
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.model import Model
from nestscope.sim.operations import Operation, Order, Together
from nestscope.sim.places import Turn

_BASE_SHIFTS = frozenset({12, 16})
_ALL_SHIFTS = frozenset({12, 16, 21, 30})


class On(StrEnum):
    """Where operations run."""

    MODEL = "model"
    KERNEL = "kernel"
    BOTH = "both"


class Side(Protocol):
    """What executes events: the model, or a machine with a kernel in it."""

    def execute(self, events: Sequence[Event]) -> list[Result]:
        """Execute events in order and return one result each."""
        ...

    def execute_together(self, events: Sequence[Event]) -> list[Result]:
        """Execute events at the same time and return one result each."""
        ...

    def execute_order(
        self, parts: Sequence[Sequence[Event]], turns: Sequence[Sequence[Turn]]
    ) -> Ran:
        """Execute the events of each operation in turns; return results and States."""
        ...

    def state(self) -> State:
        """Return the State now."""
        ...


class ModelMachine:
    """The model as a machine that executes events."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def execute(self, events: Sequence[Event]) -> list[Result]:
        """Execute events in order and return one result each.

        Raises:
            UnmodelledError: where the model has no specification.
        """
        return [self._model.step(event) for event in events]

    def execute_together(self, events: Sequence[Event]) -> list[Result]:
        """Execute events one after the other: one of the orders that a kernel may take."""
        return self.execute(events)

    def execute_order(
        self, parts: Sequence[Sequence[Event]], turns: Sequence[Sequence[Turn]]
    ) -> Ran:
        """Execute the events of each operation in turns; return results and States."""
        return model_in_order(self._model, parts, turns)

    def state(self) -> State:
        """Return the model's State now."""
        return self._model.state()


@dataclass
class OneSide:
    """A machine that executes operations, step by step as a `Comparison`."""

    guest: Guest
    machine: Side
    tally: Tally = field(default_factory=Tally)

    def start(self) -> None:
        """Make the VM."""
        self.machine.execute(self.guest.setup())

    def step(self, operation: Operation, disturb: Callable[[], object] | None = None) -> Step:
        """Execute one operation and read the State; there are never differences.

        `disturb` is called before the State is read.

        Raises:
            As `Comparison.step`.
        """
        results, held = run_operation(self.machine, self.guest, operation)
        if disturb is not None:
            disturb()
        observed = self.machine.state()
        self.tally.add(observed)
        return Step(self.tally.steps, operation, tuple(results), observed, (), held=tuple(held))


def run_operation(
    machine: Side, guest: Guest, operation: Operation
) -> tuple[list[Result], list[State]]:
    """Execute any operation; return the results of its events, and the States of its turns."""
    if isinstance(operation, Order):
        ran = machine.execute_order(guest.lower_order(operation), operation.turns)
        return list(chain(*ran.results)), ran.states
    events = guest.lower(operation)
    together = isinstance(operation, Together)
    return (machine.execute_together if together else machine.execute)(events), []


def typical_facts(kernel: str, machine: str) -> HostFacts:
    """Return what a model is told of a host that is not there to be asked.

    `kernel` is a name of `lab kernels`, which ends in its page size; `machine` one of
    the lab. R and C as QEMU up to 8.1 handles them.

    Raises:
        LabError: if there is no such machine.
    """
    bare_metal = find_machine(machine).bare_metal
    return HostFacts(
        page_shift=12 if kernel.endswith("-4k") else 16,
        hisi_flags_visible=bare_metal,
        reads_instructions=bare_metal,
        pseries=not bare_metal,
        # QEMU's powernv machines have no "ibm,processor-radix-AP-encodings".
        tlbie_shifts=_BASE_SHIFTS if bare_metal else _ALL_SHIFTS,
    )
