"""Mutations of a program: what a campaign does with the programs of its corpus.

A mutated program is again one that the trace language can say. Whether the guest
can do each operation is found out when it is lowered (`GuestLayoutError`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from random import Random
from typing import Any

from nestscope.sim.constants import U64
from nestscope.sim.operations import RWXRC, SHIFTS, Operation, Order, Together, permission_bits

MAX_LENGTH = 2000
"""Operations in a program; a longer one loses its end."""

_STRETCH = 8
_ALL_RIGHTS = permission_bits(RWXRC)
_SIZE_BITS = range(64)
_SPECIAL = (0, 1, 2, 4095, 4096, 1 << 32, (1 << 52) - 8, 1 << 52, 1 << 60, U64 - 7, U64)


def mutate(
    program: Sequence[Operation], rng: Random, others: Iterable[Operation] = ()
) -> list[Operation]:
    """Return a changed copy of a program; the same one for the same `rng`.

    One to four changes: an operation's argument changed, operations removed,
    repeated, exchanged, inserted from `others` (another program or fresh random
    operations), or the end replaced by the end of `others`.
    """
    result = list(program)
    donor = list(others)
    for _ in range(rng.choice((1, 1, 2, 4))):
        change = rng.choice(_CHANGES if donor else _CHANGES_ALONE)
        result = change(result, rng, donor)
    return result[:MAX_LENGTH]


def change_argument(operation: Operation, rng: Random, program: Sequence[Operation]) -> Operation:
    """Return an operation with one field changed; values of `program` are preferred."""
    if isinstance(operation, Order):
        return operation  # another operation would not come to its places
    if isinstance(operation, Together):
        at = rng.randrange(len(operation.operations))
        parts = list(operation.operations)
        changed = change_argument(parts[at], rng, program)
        assert not isinstance(changed, Together | Order)
        parts[at] = changed
        return Together(tuple(parts))
    names = [field.name for field in fields(operation)]
    if not names:
        return operation
    name = rng.choice(names)
    value = _other_value(name, getattr(operation, name), rng, program)
    changes: dict[str, Any] = {name: value}
    return replace(operation, **changes)


def _other_value(name: str, value: object, rng: Random, program: Sequence[Operation]) -> object:
    if isinstance(value, bool):
        return not value
    if name == "shift":
        return rng.choice(sorted(SHIFTS.values()))
    if name == "bits":
        return rng.getrandbits(64) & _ALL_RIGHTS
    if isinstance(value, tuple):
        at = rng.randrange(len(value)) if value else 0
        return tuple(
            _other_number(v, name, rng, program) if i == at else v for i, v in enumerate(value)
        )
    if isinstance(value, int):
        return _other_number(value, name, rng, program)
    return value


def _other_number(value: int, name: str, rng: Random, program: Sequence[Operation]) -> int:
    """Another number: seen elsewhere, a neighbour, one bit flipped, or a special one."""
    way = rng.randrange(4)
    if way == 0 and (seen := _seen(name, rng, program)) is not None:
        return seen
    if way == 1:
        return (value + rng.choice((-1, 1)) * rng.choice((1, 8, 1 << 12, 1 << 16, 1 << 21))) & U64
    if way == 2:
        return value ^ 1 << rng.choice(_SIZE_BITS)
    return rng.choice(_SPECIAL)


def _seen(name: str, rng: Random, program: Sequence[Operation]) -> int | None:
    """Return a number that some operation of the program has in the field `name`."""
    for _ in range(_STRETCH):
        value = getattr(rng.choice(program), name, None) if program else None
        if isinstance(value, int):
            return value
    return None


def _change(program: list[Operation], rng: Random, _: list[Operation]) -> list[Operation]:
    if program:
        at = rng.randrange(len(program))
        program[at] = change_argument(program[at], rng, program)
    return program


def _delete(program: list[Operation], rng: Random, _: list[Operation]) -> list[Operation]:
    start = rng.randrange(len(program) + 1)
    return program[:start] + program[start + rng.randint(1, _STRETCH) :]


def _repeat(program: list[Operation], rng: Random, _: list[Operation]) -> list[Operation]:
    start = rng.randrange(len(program) + 1)
    stretch = program[start : start + rng.randint(1, _STRETCH)]
    to = rng.randrange(len(program) + 1)
    return program[:to] + stretch + program[to:]


def _exchange(program: list[Operation], rng: Random, _: list[Operation]) -> list[Operation]:
    if len(program) > 1:
        a, b = rng.sample(range(len(program)), 2)
        program[a], program[b] = program[b], program[a]
    return program


def _insert(program: list[Operation], rng: Random, donor: list[Operation]) -> list[Operation]:
    start = rng.randrange(len(donor))
    to = rng.randrange(len(program) + 1)
    return program[:to] + donor[start : start + rng.randint(1, _STRETCH)] + program[to:]


def _splice(program: list[Operation], rng: Random, donor: list[Operation]) -> list[Operation]:
    return program[: rng.randrange(len(program) + 1)] + donor[rng.randrange(len(donor)) :]


_Change = Callable[[list[Operation], Random, list[Operation]], list[Operation]]
_CHANGES_ALONE: tuple[_Change, ...] = (_change, _change, _change, _delete, _repeat, _exchange)
_CHANGES: tuple[_Change, ...] = (*_CHANGES_ALONE, _insert, _insert, _splice)
