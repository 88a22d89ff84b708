"""Mutated programs: the trace language can say each, and the same seed gives the same."""

from dataclasses import fields
from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.generate import Profile, mutate, random_operations, vary
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
from nestscope.sim.profile import HABITS
from nestscope.sim.trace import format_trace, parse

SEEDS = st.integers(0, 2**32)


def program(seed: int, length: int = 30) -> list[Operation]:
    return list(islice(random_operations(seed, LAYOUT), length))


@given(SEEDS, SEEDS)
def test_a_mutated_program_is_a_program(seed: int, choice: int) -> None:
    mutated = mutate(program(seed), Random(choice), program(seed + 1))
    assert list(parse(format_trace(mutated))) == mutated


@given(SEEDS)
def test_the_same_choice_gives_the_same_mutation_and_the_program_stays(choice: int) -> None:
    original = program(1)
    first, second = (mutate(original, Random(choice), program(2)) for _ in range(2))
    assert first == second
    assert original == program(1)


def test_mutations_reach_other_lengths_other_arguments_and_the_other_program() -> None:
    mine, other = program(1), program(2)
    results = [mutate(mine, Random(choice), other) for choice in range(200)]
    lengths = {len(result) for result in results}
    assert min(lengths) < 30 < max(lengths)
    assert any(result[-3:] == other[-3:] for result in results)
    news = [o for result in results for o in result if o not in mine and o not in other]
    assert len({type(operation) for operation in news}) > 5


def test_an_empty_program_can_be_mutated() -> None:
    assert all(mutate([], Random(choice)) == [] for choice in range(20))


@given(SEEDS)
def test_a_neighbour_of_a_profile_is_a_profile(choice: int) -> None:
    neighbour = vary(Profile(), Random(choice))
    for field in fields(neighbour):
        value = getattr(neighbour, field.name)
        assert 0 <= value <= (1 if field.name in HABITS else 100)


def test_a_weight_of_zero_means_never_and_a_habit_shows() -> None:
    calm = format_trace(islice(random_operations(3, LAYOUT), 400))
    quiet = format_trace(islice(random_operations(3, LAYOUT, Profile(discard=0)), 400))
    assert "discard" in calm
    assert "discard" not in quiet
    bold = format_trace(islice(random_operations(3, LAYOUT, Profile(any_lpid=1)), 400))
    assert "load 4294967295" in bold or "store 4294967295" in bold
