"""The table of transitions names what exists, and leaves no cell empty."""

import importlib
import re
from pathlib import Path

import pytest

from nestscope.sim.facts import PLACES

HERE = Path(__file__).parent
TEXT = (HERE.parents[1] / "docs/transitions.md").read_text(encoding="utf-8")


def rows(columns: int) -> list[list[str]]:
    """Cells of the table with this many columns, without its head."""
    lines = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line] for line in lines if len(line) == columns]
    return [row for row in table[1:] if set(row[0]) != {"-"}]


def test_all_30_transitions_are_there_and_no_cell_is_empty() -> None:
    assert [row[0] for row in rows(5)] == [str(number) for number in range(1, 31)]
    assert all(cell for row in rows(5) + rows(3) for cell in row)


@pytest.mark.parametrize("row", rows(5), ids=lambda row: row[0])
def test_every_model_function_exists_and_names_its_transition(row: list[str]) -> None:
    module, name = row[3].strip("`").split(".")
    function = getattr(importlib.import_module(f"nestscope.sim.{module}"), name)
    assert callable(function)
    source = Path(importlib.import_module(f"nestscope.sim.{module}").__file__ or "")
    assert "transition" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("row", rows(5) + rows(3), ids=lambda row: row[0])
def test_every_test_exists(row: list[str]) -> None:
    file, name = row[-1].strip("`").split("::")
    assert re.search(rf"^def {name}\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_place_of_an_observation_has_its_row() -> None:
    assert [row[0].strip("`") for row in rows(3)] == list(PLACES)
