"""Shrinking: what it returns was run and shows the trouble, and nothing can be left out."""

from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.differential.campaign.shrink import Budget, Program, shrink
from nestscope.sim.events import Fork
from nestscope.sim.operations import (
    RWXRC,
    Load,
    Map,
    Operation,
    Store,
    Together,
    Unmap,
    permission_bits,
)

ALL = permission_bits(RWXRC)
NOISE: list[Operation] = [Load(1, n << 16) for n in range(40)]


def large() -> Budget:
    return Budget(tries=100_000, seconds=60.0)


@given(st.sets(st.integers(0, 39), min_size=1, max_size=5))
def test_what_is_needed_stays_and_everything_else_goes(needed: set[int]) -> None:
    wanted = [NOISE[n] for n in sorted(needed)]

    def shows(program: Program) -> Program | None:
        return program if all(operation in program for operation in wanted) else None

    assert list(shrink(NOISE, shows, large())) == wanted


def test_the_program_ends_where_the_trouble_is_seen() -> None:
    """`shows` returns the operations up to the trouble: the rest is never run again."""

    def shows(program: Program) -> Program | None:
        found = [at for at, operation in enumerate(program) if operation == NOISE[7]]
        return program[: found[0] + 1] if found else None

    assert shrink(NOISE, shows, large()) == (NOISE[7],)


def test_arguments_become_plain_where_they_do_not_matter() -> None:
    program = (Map(9, 0x20000, 0x900000, 16, 0), Store(9, 0x20008, 0x1234), Unmap(9, 0x20000))

    def shows(candidate: Program) -> Program | None:
        kinds = [type(operation) for operation in candidate]
        return candidate if kinds in ([Map, Store, Unmap], [Map, Load, Unmap]) else None

    assert shrink(program, shows, large()) == (
        Map(1, 0x20000, 0x900000, 16, ALL),
        Load(1, 0x20000),
        Unmap(1, 0x20000),
    )


def test_arguments_that_matter_stay() -> None:
    program = (Map(9, 0x20000, 0x900000, 16, 0), Store(9, 0x20008, 0x1234))

    def shows(candidate: Program) -> Program | None:
        return candidate if candidate == program else None

    assert shrink(program, shows, large()) == program


def test_the_budget_bounds_the_programs_that_are_run() -> None:
    ran: list[Program] = []

    def shows(candidate: Program) -> Program | None:
        ran.append(candidate)
        return candidate if NOISE[0] in candidate and NOISE[39] in candidate else None

    shortest = shrink(NOISE, shows, Budget(tries=7, seconds=60.0))
    assert len(ran) == 7
    assert shortest in [tuple(NOISE), *ran]


def test_without_time_nothing_is_run() -> None:
    def shows(_: Program) -> Program | None:
        raise AssertionError("a program was run")

    assert shrink(NOISE, shows, Budget(tries=100, seconds=0.0)) == tuple(NOISE)


def test_a_group_loses_what_is_not_needed_at_the_same_time() -> None:
    first, second = Load(1, 0), Store(1, 0x10000, 5)
    group = Together((first, Unmap(1, 0), second, Fork()))

    def needs_both(candidate: Program) -> Program | None:
        (only,) = candidate
        both = isinstance(only, Together) and {first, second} <= set(only.operations)
        return candidate if both else None

    assert shrink((group,), needs_both, large()) == (Together((first, second)),)

    def needs_one(candidate: Program) -> Program | None:
        (only,) = candidate
        return candidate if first in (only, *getattr(only, "operations", ())) else None

    assert shrink((group,), needs_one, large()) == (first,)
