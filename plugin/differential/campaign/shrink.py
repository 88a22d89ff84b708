"""Make a program that shows a trouble as short and as plain as it gets.

Delta debugging (Zeller and Hildebrandt's ddmin) over the operations, then plainer
arguments, then the operations once more. Pure: whoever calls says what a program shows.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nestscope.decoders.words.pte import PTE_C, PTE_R
from nestscope.sim.operations import (
    RWXRC,
    Load,
    Map,
    Operation,
    Store,
    Together,
    permission_bits,
)

Program = tuple[Operation, ...]
Shows = Callable[[Program], Program | None]
"""Runs a program; returns its operations up to the trouble, or None if it shows another or none."""

_PLAIN_VALUE = 1
_PAGE = 0x10000
_GUEST_NAMES = ("l1_lpid", "lpid")


@dataclass
class Budget:
    """How many programs may be run, and how long that may take in seconds."""

    tries: int
    seconds: float
    used: int = 0
    started: float = field(default_factory=time.monotonic)

    def left(self) -> bool:
        """Whether another program may be run."""
        return self.used < self.tries and time.monotonic() - self.started < self.seconds


def shrink(program: Sequence[Operation], shows: Shows, budget: Budget) -> Program:
    """Return the shortest program found that still shows the trouble.

    `program` shows it; what is returned was run, and showed it, too.
    """
    best = tuple(program)
    while budget.left():
        before = best
        best = _fewer_operations(best, shows, budget)
        best = _plainer_arguments(best, shows, budget)
        if best == before:
            break
    return best


def _attempt(candidate: Program, shows: Shows, budget: Budget) -> Program | None:
    if not budget.left():
        return None
    budget.used += 1
    return shows(candidate)


def _fewer_operations(program: Program, shows: Shows, budget: Budget) -> Program:
    """Leave out ever smaller pieces, from the end: what comes last is needed least often."""
    size = max(1, len(program) // 2)
    while True:
        end = len(program)
        removed = False
        while end > 0 and budget.left():
            start = max(0, end - size)
            shorter = program[:start] + program[end:]
            shown = _attempt(shorter, shows, budget) if shorter else None
            if shown is not None:
                program, removed = shown, True
            end = min(start, len(program))
        if not budget.left() or (size == 1 and not removed):
            return program
        if not removed:
            size = max(1, size // 2)


def _plainer_arguments(program: Program, shows: Shows, budget: Budget) -> Program:
    """Try plainer values: for one nested guest everywhere, then for each operation alone."""
    for candidate in _renamed(program):
        shown = _attempt(candidate, shows, budget)
        if shown is not None:
            program = shown
    at = 0
    while at < len(program):
        for plainer in _plainer(program[at]):
            shown = _attempt((*program[:at], plainer, *program[at + 1 :]), shows, budget)
            if shown is not None and len(shown) <= len(program):
                program = shown
                break
        at += 1
    return program


def _renamed(program: Program) -> Iterator[Program]:
    """Yield the program with one nested guest called by the lowest free number."""
    used = sorted({number for each in program for number in _guests(each)})
    free = iter(number for number in range(1, 4096) if number not in used)
    for number in used:
        lower = next(free)
        if lower < number:
            yield tuple(_with_guest(each, number, lower) for each in program)


def _guests(operation: Operation) -> list[int]:
    return [getattr(operation, name) for name in _GUEST_NAMES if hasattr(operation, name)]


def _with_guest(operation: Operation, old: int, new: int) -> Operation:
    changed: dict[str, Any] = {
        name: new for name in _GUEST_NAMES if getattr(operation, name, None) == old
    }
    return replace(operation, **changed) if changed else operation


def _plainer(operation: Operation) -> Iterator[Operation]:
    """Yield operations that say the same more plainly, the plainest first."""
    if isinstance(operation, Together):
        parts = operation.operations
        yield from parts
        if len(parts) > 2:
            yield from (Together(parts[:at] + parts[at + 1 :]) for at in range(len(parts)))
    if isinstance(operation, Map):
        for bits in (permission_bits(RWXRC), operation.bits | PTE_R | PTE_C):
            if bits != operation.bits:
                yield replace(operation, bits=bits)
    if isinstance(operation, Store):
        yield Load(operation.l1_lpid, operation.n_gpa)
    if isinstance(operation, Load | Store) and operation.n_gpa % _PAGE:
        yield replace(operation, n_gpa=operation.n_gpa // _PAGE * _PAGE)
    changes: dict[str, Any] = {}
    if getattr(operation, "value", _PLAIN_VALUE) != _PLAIN_VALUE:
        changes["value"] = _PLAIN_VALUE
    if getattr(operation, "length", 0) > _PAGE:
        changes["length"] = _PAGE
    for name, value in changes.items():
        yield replace(operation, **{name: value})
