"""Breakpoints at kernel functions, and at the places that they return to.

Calls inside a module arrive at a function's *local* entry (ELFv2), where the
arguments are in r3 to r10. The return is caught at the function's own `blr`, or where LR
points at entry; the stack pointer tells whose return it is. QEMU compares effective
addresses only, and the kernel of a guest may have the same ones: LPIDR is 0 in the host
itself. QEMU 7.2 gives the SPRs of its first vCPU only (`gdb_find_spr_idx`): of another one
the stack tells, whose frames are chained in the host's memory.

A stop costs 5 to 20 ms with QEMU before 10.1: its gdbstub drops all translated code
at each (`tb_flush` in `gdb_vm_state_change`). So no stop is spent on stepping over a
breakpoint where that can be helped (`places`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.types import UnknownTypeError
from nestscope.plugin.differential.follow.observe import FollowError
from nestscope.plugin.differential.follow.places import WORD, Places, places_of
from nestscope.plugin.mi.errors import GdbCommandError, GdbTimeoutError
from nestscope.plugin.mi.session import GdbSession

T = TypeVar("T")

_REGISTERS = ("nip", "lr", "r1", *(f"r{n}" for n in range(3, 11)))
_STACK_SHIFTS = range(13, 18)
_STACK_ENDS = (
    # Two names of the same two places, by kernel (INIT_TASK_DATA in vmlinux.lds.h).
    ("__start_init_stack", "__end_init_stack"),
    ("__start_init_task", "__end_init_task"),
)
_MAX_RETURNS = 512
_CHAINED = 3
"""Frames that must be chained. Every path to a followed function is deeper."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A vCPU of the host has stopped at a followed place.

    `function` names the one that was entered, "" for a return (then `key` is the
    frame's) and for a place that is not followed. `resume` is where the vCPU goes on,
    None if only the instruction under the breakpoint can tell.
    """

    function: str
    registers: Mapping[str, int]
    key: tuple[int, int] | None = None
    resume: int | None = None

    def argument(self, number: int) -> int:
        """Return argument `number`, from 1 to 8, of the function that was entered."""
        return self.registers[f"r{number + 2}"]

    @property
    def stack(self) -> int:
        """The stack pointer: of the caller, both at entry and at return."""
        return self.registers["r1"]

    def signed_result(self) -> int:
        """Return r3 as an `int`."""
        value = self.registers["r3"] & 0xFFFF_FFFF
        return value - (1 << 32) if value >> 31 else value


def same_thread(one: int, other: int, size: int) -> bool:
    """Say whether two stack pointers lie in one kernel stack of `size` bytes (THREAD_SIZE)."""
    return not (one ^ other) & -size


def stack_size(kernel: Kernel) -> int:
    """Return THREAD_SIZE, to which kernel stacks are aligned: that of the first task's stack.

    Raises:
        FollowError: if the kernel does not tell.
    """
    for first, last in _STACK_ENDS:
        start, end = kernel.symbols.get(first), kernel.symbols.get(last)
        if start is not None and end is not None:
            size = end.address - start.address
            if size in {1 << shift for shift in _STACK_SHIFTS}:
                return size
    try:
        return kernel.types.struct("thread_union").size
    except UnknownTypeError as error:
        raise FollowError(
            "the size of kernel stacks is unknown: give the kernel with --vmlinux"
        ) from error


@dataclass
class Tracer(Generic[T]):
    """The breakpoints of one session, and the frames that have not returned.

    `functions` are names by place of entry, `exits` places of entry by that of a `blr`.
    `returns` are return addresses, of functions that may leave in another way. `text`
    are the instructions under the breakpoints, 4 bytes each, but those of `returns`.
    `frames` are keyed by place of entry or return address, and stack pointer.
    `foreign` counts stops in a guest of the host, `stops` all.
    """

    session: GdbSession
    kernel: Kernel
    functions: dict[int, str] = field(default_factory=dict)
    places: dict[str, Places] = field(default_factory=dict)
    exits: dict[int, int] = field(default_factory=dict)
    text: dict[int, bytes] = field(default_factory=dict)
    returns: set[int] = field(default_factory=set)
    frames: dict[tuple[int, int], T] = field(default_factory=dict)
    stops: int = 0
    foreign: int = 0
    stack_size: int = field(init=False)

    def __post_init__(self) -> None:
        """Look up how large stacks are.

        Raises:
            FollowError: see `stack_size`.
        """
        self.stack_size = stack_size(self.kernel)

    def follow(self, names: Sequence[str], returning: Sequence[str] = ()) -> list[str]:
        """Set a breakpoint at each function that the kernel has; return the missing ones.

        `returning` are those whose return is wanted. The target is stopped.
        """
        # Otherwise GDB takes all of them out at each stop, and puts them back.
        self.session.execute("-gdb-set breakpoint always-inserted on")
        missing = []
        for name in names:
            if not self._has(name):
                missing.append(name)
                continue
            places = self.places[name] = places_of(self.kernel, name)
            self.functions[places.entry] = name
            exits = places.exits if name in returning else ()
            self.exits |= dict.fromkeys(exits, places.entry)
            for place in (places.entry, *exits):
                self.text[place] = self.kernel.memory.read(place, WORD)
                self.session.break_at(place)
        return missing

    def _has(self, name: str) -> bool:
        tables = (self.kernel.symbols, *self.kernel.module_symbols.values())
        return any(name in table for table in tables)

    def wait(self, seconds: float) -> Stop:
        """Wait for the running target to stop; stop it after `seconds`.

        A vCPU may reach a followed place just when it is stopped, so what counts is
        where it is, and not why.

        Raises:
            MiError: if the target or GDB is gone.
        """
        try:
            self.session.wait_stop(seconds)
        except GdbTimeoutError:
            self.session.interrupt()
        self.kernel.memory.forget()
        seen, in_host = self._registers()
        here = seen["nip"]
        if not any(here in known for known in (self.functions, self.exits, self.returns)):
            return Stop("", seen)
        self.stops += 1
        if not in_host(seen["r1"]):
            self.foreign += 1
            # A guest may run the same kernel: then its instruction is the same one.
            same = self.session.read_context(here, WORD) == self.text.get(here)
            return Stop("", seen, resume=self._after(here, seen) if same else None)
        resume = self._after(here, seen)
        name = self.functions.get(here)
        if name is not None:
            return Stop(name, seen, resume=resume)
        key = (self.exits.get(here, here), seen["r1"])
        return Stop("", seen, key if key in self.frames else None, resume)

    def _after(self, here: int, seen: Mapping[str, int]) -> int | None:
        """Return where a vCPU is after the instruction at `here`, None if that takes a step."""
        if here in self.exits:
            return seen["lr"] & -WORD
        name = self.functions.get(here)
        return here + WORD if name is not None and self.places[name].skip else None

    def resume(self, stop: Stop | None) -> None:
        """Let the target run on from a stop."""
        self.session.cont(None if stop is None else stop.resume)

    def _registers(self) -> tuple[Mapping[str, int], Callable[[int], bool]]:
        """Return the registers, and what tells from a stack pointer whether this is the host."""
        try:
            seen = self.session.read_registers(*_REGISTERS, "lpidr")
        except GdbCommandError:
            return self.session.read_registers(*_REGISTERS), self._chained
        return seen, lambda _: not seen["lpidr"]

    def _chained(self, stack: int) -> bool:
        """Say whether frames are chained from `stack` on in the host's memory.

        ELFv2 ABI: a frame begins with the address of the caller's, which is higher.
        """
        for _ in range(_CHAINED):
            try:
                back = self.kernel.memory.u64(stack)
            except UnreadableMemoryError:
                return False
            if not stack < back or not same_thread(stack, back, self.stack_size):
                return False
            stack = back
        return True

    def expect_return(self, stop: Stop, frame: T) -> None:
        """Stop again where the function that was just entered returns to.

        Raises:
            FollowError: if there are implausibly many call sites.
        """
        places = self.places[stop.function]
        if places.exits:
            self.frames[places.entry, stop.stack] = frame
            return
        target = stop.registers["lr"]
        if target not in self.returns:
            if len(self.returns) >= _MAX_RETURNS:
                raise FollowError("the followed functions have too many callers to watch")
            self.session.break_at(target)
            self.returns.add(target)
        self.frames[target, stop.stack] = frame

    def inside(self, stack: int) -> list[T]:
        """Return the frames of the same kernel stack that have not returned, outermost first."""
        found = [key for key in self.frames if same_thread(key[1], stack, self.stack_size)]
        return [self.frames[key] for key in sorted(found, key=lambda key: -key[1])]
