"""Run operations on the model and on a real kernel; compare after every step.

A step is one operation of the guest. It is lowered once to events; the model
and the machine execute the same events. Then their results and their whole
States are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nestscope.decoders.compare import Difference, Renaming, compare
from nestscope.decoders.state import State
from nestscope.plugin.differential.observe import observations
from nestscope.sim.events import Age, Event, Result
from nestscope.sim.guest import Guest
from nestscope.sim.model import Model
from nestscope.sim.operations import Operation


class Machine(Protocol):
    """What executes events for real: a lab machine with a kernel in it."""

    def execute(self, events: Sequence[Event]) -> list[Result]:
        """Execute events in order and return one result each."""
        ...

    def state(self) -> State:
        """Return the kernel's State now."""
        ...


@dataclass(frozen=True)
class Step:
    """What one compared step was and found. `number` counts from 1."""

    number: int
    operation: Operation
    results: tuple[Result, ...]
    observed: State
    differences: tuple[Difference, ...]


@dataclass
class Tally:
    """How much was compared, over all steps so far."""

    steps: int = 0
    chains: int = 0
    entries: int = 0
    leaves: int = 0

    def add(self, state: State) -> None:
        """Count what a compared State held."""
        self.steps += 1
        for vm in state.vms:
            self.leaves += len(vm.host_leaves) + sum(len(guest.leaves) for guest in vm.nested)
            self.chains += sum(len(memslot.rmap) for memslot in vm.memslots)
            self.entries += sum(len(memslot.rmap.entries) for memslot in vm.memslots)


@dataclass
class Comparison:
    """A model and a machine that execute the same operations."""

    guest: Guest
    model: Model
    machine: Machine
    renaming: Renaming = field(default_factory=Renaming)
    tally: Tally = field(default_factory=Tally)

    def start(self) -> None:
        """Make the VM on both sides."""
        self.model.host_pages = self.renaming.known
        self.renaming.mixed = self.model.mixed
        events = self.guest.setup()
        for event in events:
            self.model.step(event)
        self.machine.execute(events)

    def step(self, operation: Operation, disturb: Callable[[], object] | None = None) -> Step:
        """Execute one operation on both sides and compare results and States.

        `disturb` is called on the real side before its State is read: it is
        how a test makes sure that a difference is noticed.
        """
        events = self.guest.lower(operation)
        results = self.machine.execute(events)
        expected = [
            self.model.step(event, observations(event, result))
            for event, result in zip(events, results, strict=True)
        ]
        if disturb is not None:
            disturb()
        observed = self.machine.state()
        differences = [
            difference
            for event, left, right in zip(events, expected, results, strict=True)
            for difference in compare_results(event, left, right)
        ]
        differences += compare(self.model.state(), observed, self.renaming)
        self.tally.add(observed)
        return Step(self.tally.steps, operation, tuple(results), observed, tuple(differences))


def compare_results(event: Event, expected: Result, observed: Result) -> list[Difference]:
    """Return the fields in which two results of one event differ.

    A field that the model leaves at None is none that it predicts. Whether a page was
    young is told to the host's memory management only, and not to whoever asked for `Age`.
    """
    if isinstance(event, Age):
        return []
    name = type(event).__name__.lower()
    pairs = zip(expected._fields, expected, observed, strict=True)
    return [
        Difference(f"result.{name}.{member}", hex(left), "nothing" if right is None else hex(right))
        for member, left, right in pairs
        if left is not None and left != right
    ]
