"""The catalogue fits the model's source: each mutant applies, and changes something."""

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_applies_to_todays_source(mutant: Mutant) -> None:
    mutant.source()


def test_names_are_unique_and_there_are_forty() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
