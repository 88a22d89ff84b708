"""Run operations on the model and on a real kernel; compare after every step.

A step is one operation of the guest. It is lowered once to events; the model
and the machine execute the same events. Then their results and their whole
States are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from nestscope.decoders.compare import Difference, Renaming, compare
from nestscope.decoders.state import State
from nestscope.plugin.differential.observe import compare_results, observations
from nestscope.plugin.differential.order.model import Ran, model_in_order
from nestscope.plugin.differential.together import settle
from nestscope.plugin.qemu.errors import RefusedError
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.events import Event, Result
from nestscope.sim.guest import Guest
from nestscope.sim.model import Model
from nestscope.sim.operations import Operation, Order, Together
from nestscope.sim.places import Turn

REFUSED = (GuestLayoutError, RefusedError)
"""Errors of `step` that say: no VMM or guest can do this, and neither side did anything."""


class Machine(Protocol):
    """What executes events for real: a lab machine with a kernel in it."""

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

    def read_page(self, number: int, offset: int, length: int) -> bytes:
        """Read bytes of a host page, by its number (physical address >> page shift)."""
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
    mixed: frozenset[tuple[int, int]] = frozenset()
    """`(l1_lpid, n_gpa)` of shadow leaves that mix host pages, as the model has it too."""
    held: tuple[State, ...] = ()
    """Of an order: the State after each turn, when every operation was held or had ended."""


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

        Raises:
            GuestLayoutError, RefusedError: if guest or VMM cannot do it (`REFUSED`).
            UnmodelledError: where the model has no specification.
            LabError, LabFailure: if the machine fails.
        """
        if isinstance(operation, Together):
            return self._step_together(operation, disturb)
        if isinstance(operation, Order):
            return self._step_in_order(operation, disturb)
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
        mixed = self.model.mixed_leaves()
        return Step(
            self.tally.steps, operation, tuple(results), observed, tuple(differences), mixed
        )

    def _step_in_order(self, operation: Order, disturb: Callable[[], object] | None = None) -> Step:
        """Execute operations in turns on both sides."""
        parts = self.guest.lower_order(operation)
        ran = self.machine.execute_order(parts, operation.turns)
        expected = model_in_order(self.model, parts, operation.turns, ran.results)
        if disturb is not None:
            disturb()
        observed = self.machine.state()
        events, left, right = (chain(*each) for each in (parts, expected.results, ran.results))
        differences = [
            difference
            for event, mine, seen in zip(events, left, right, strict=True)
            for difference in compare_results(event, mine, seen)
        ]
        pairs = zip(expected.states, ran.states, strict=True)
        for turn, (mine, seen) in enumerate(pairs, start=1):
            differences += [
                difference._replace(path=f"turn[{turn}].{difference.path}")
                for difference in compare(mine, seen, self.renaming)
            ]
        differences += compare(self.model.state(), observed, self.renaming)
        self.tally.add(observed)
        return Step(
            self.tally.steps,
            operation,
            tuple(chain(*ran.results)),
            observed,
            tuple(differences),
            self.model.mixed_leaves(),
            tuple(ran.states),
        )

    def _step_together(
        self, operation: Together, disturb: Callable[[], object] | None = None
    ) -> Step:
        """Execute operations at the same time, and follow the order that the kernel took."""
        events = self.guest.lower(operation)
        results = self.machine.execute_together(events)
        if disturb is not None:
            disturb()
        observed = self.machine.state()
        self.model, self.renaming, differences = settle(
            self.model, self.renaming, events, results, observed, self.machine.read_page
        )
        self.tally.add(observed)
        mixed = self.model.mixed_leaves()
        return Step(
            self.tally.steps, operation, tuple(results), observed, tuple(differences), mixed
        )
