"""Let operations on a live kernel take turns (`sim.order`), each held where it is told to be.

A task that comes to its place (a breakpoint) is sent to an instruction `b .` of the kernel
by changing its program counter, and nothing else: there it stays, with all its registers
and locks, until the program counter is set back. Its processor goes on to serve
interrupts, so that no other waits for it. Code and data of the kernel stay as they are.

Only one operation moves at a time, so whoever comes to a breakpoint is that one.
"""

import time
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from nestscope.decoders.state import State
from nestscope.plugin.differential.order.sites import Sites
from nestscope.plugin.mi.errors import GdbTimeoutError
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.channel import Agent, Reply
from nestscope.plugin.qemu.errors import LabError, LabFailure
from nestscope.sim.places import Place, Turn

TURN_SECONDS = 25.0
"""Longest turn. A nested guest is given 20 s before its time is up (`HELD_SECONDS`)."""
_POLL_SECONDS = 0.005
_RUNNING = "running"


class OrderError(LabError):
    """The kernel cannot be led through an order."""


@dataclass
class Operation:
    """One operation: its name for people, its commands for the agent, where it is to be held.

    `worker` is the agent's thread that it runs in. `replies` are those of the commands
    that have ended. `parked`: where it is held, and where its stack is (r1).
    """

    name: str
    worker: int
    commands: list[str]
    turns: list[Turn]
    replies: list[Reply] = field(default_factory=list)
    begun: bool = False
    parked: tuple[int, int] | None = None

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return not self.commands


class Conductor:
    """Leads operations through their turns on one machine.

    `read_state` reads the kernel's State, whether the machine runs or not.
    """

    def __init__(
        self, session: GdbSession, agent: Agent, sites: Sites, read_state: Callable[[], State]
    ) -> None:
        self._session = session
        self._agent = agent
        self._sites = sites
        self._read_state = read_state
        self._loops: list[int] = []
        self._due = 0

    def run(self, operations: Sequence[Operation]) -> list[State]:
        """Let the operations take turns until all have ended; return the State after each turn.

        Raises:
            OrderError: if one does not come to its place, or cannot go on.
            PlaceError: if this kernel has no such place; then none has begun.
            LabFailure: if the machine fails.
        """
        for place in {p for operation in operations for p in operation.turns if p is not None}:
            self._sites.addresses(place)
        self._loops = self._sites.loops(1 + max(operation.worker for operation in operations))
        states: list[State] = []
        try:
            self._adopt({operation.worker for operation in operations})
            while not all(operation.ended for operation in operations):
                for operation in operations:
                    moved = not operation.ended and self._take_turn(operation)
                    states += [self._read_state()] if moved else []
            return states
        except OrderError:
            self._let_go(operations)
            raise

    def _adopt(self, workers: Collection[int]) -> None:
        """Give each thread its vCPU before anybody is held: it may need an RCU grace period."""
        for worker in sorted(workers):
            adoption = Operation("adoption", worker, ["adopt"], [])
            limit = time.monotonic() + TURN_SECONDS
            while not self._has_ended(adoption):
                if time.monotonic() > limit:
                    raise OrderError(f"vCPU {worker} cannot be run by a thread of its own")
                time.sleep(_POLL_SECONDS)

    def _take_turn(self, operation: Operation) -> bool:
        last = not operation.turns
        goal = None if last else operation.turns.pop(0)
        if goal is None and not last:
            return False
        with self._breakpoints(goal) as breakpoints:
            if operation.parked is not None:
                self._release(operation, breakpoints)
            limit = time.monotonic() + TURN_SECONDS
            times = 0
            while not self._has_ended(operation):
                if time.monotonic() > limit:
                    raise OrderError(
                        f"'{operation.name}' does not come to {goal or 'its end'} within "
                        f"{TURN_SECONDS:g} s: it waits for one that is held, or never passes there"
                    )
                hit = self._next_hit()
                if hit is None:
                    continue
                times += hit in breakpoints.values()
                if goal is not None and times == goal.times:
                    self._park(operation, goal)
                    return True
                self._session.cont()
        if goal is not None:
            raise OrderError(f"'{operation.name}' ends before it comes to {goal}")
        return True

    @contextmanager
    def _breakpoints(self, goal: Place | None) -> Iterator[dict[int, int]]:
        """Have breakpoints at a place; yield their numbers by address."""
        places = [] if goal is None else self._sites.addresses(goal)
        with self._session.stopped():
            numbers = {address: self._session.break_at(address) for address in places}
        try:
            yield numbers
        finally:
            with self._session.stopped():
                for number in numbers.values():
                    self._session.delete_breakpoint(number)

    def _next_hit(self) -> int | None:
        """Return the number of a breakpoint that was hit, -1 for another stop; None: it runs."""
        try:
            number = self._session.wait_stop(_POLL_SECONDS).breakpoint
        except GdbTimeoutError:
            return None
        return -1 if number is None else number

    def _has_ended(self, operation: Operation) -> bool:
        """Ask the agent about an operation, or begin its next command; never wait."""
        reply = self._agent.take() if self._due else None
        if reply is not None:
            self._due -= 1
            if reply.error is not None:
                raise OrderError(f"the agent could not do '{reply.command[:60]}': {reply.error}")
            if reply.command == f"ended {operation.worker}" and _RUNNING not in reply.values:
                operation.replies.append(reply)
                operation.commands.pop(0)
                operation.begun = False
        if not operation.ended and not self._due:
            asked = f"begin {operation.worker} {operation.commands[0]}"
            self._agent.submit([f"ended {operation.worker}" if operation.begun else asked])
            self._due += 1
            operation.begun = True
        return operation.ended

    def _park(self, operation: Operation, goal: Place) -> None:
        registers = self._session.read_registers("nip", "r1")
        if any(vm.mmu_lock_held for vm in self._read_state().vms):
            self._session.cont()
            raise OrderError(f"{goal} is inside mmu_lock: choose a place outside of it")
        operation.parked = registers["nip"], registers["r1"]
        self._go_to(self._loops[operation.worker])
        self._session.cont()

    def _go_to(self, address: int) -> None:
        """Let the stopped task go on elsewhere."""
        self._session.execute(f"-gdb-set var $pc={address:#x}")

    def _release(self, operation: Operation, places: Container[int]) -> None:
        """Set a task back to where it was held, and over a breakpoint that is there."""
        assert operation.parked is not None
        address, stack = operation.parked
        with self._session.stopped():
            number = self._session.break_at(self._loops[operation.worker])
        try:
            self._session.wait_stop(TURN_SECONDS)
        except GdbTimeoutError:
            raise OrderError(f"'{operation.name}' is not where it was held") from None
        self._session.delete_breakpoint(number)
        if self._session.read_registers("r1")["r1"] != stack:
            raise OrderError(f"another task is where '{operation.name}' was held")
        self._go_to(address)
        if address in places:
            self._session.step()
        operation.parked = None
        self._session.cont()

    def _let_go(self, operations: Sequence[Operation]) -> None:
        """After a failure: set back everybody who is held, and wait for the ends."""
        for operation in operations:
            with suppress(OrderError):
                if operation.parked is not None:
                    self._release(operation, ())
        limit = time.monotonic() + TURN_SECONDS
        for operation in operations:
            operation.commands = operation.commands[:1] if operation.begun else []
            with suppress(OrderError):
                while not operation.ended and time.monotonic() < limit:
                    self._has_ended(operation)
                    time.sleep(_POLL_SECONDS)
        if not all(operation.ended for operation in operations):
            raise LabFailure("hung", "operations that were held do not end", "")
