"""`nestscope explore`, on a few scenarios of the many."""

import pytest

from nestscope.sim.explore import report, scenarios

from .conftest import Cli


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs on one starting state: one breaks, one does not."""
    chosen = ("fault (store) x dirty clear", "tlbie x unmap")
    pairs = [s for s in scenarios.pairs(scenarios.STARTS[1:2]) if s.name in chosen]
    assert len(pairs) == 4
    for module in (scenarios, report):
        monkeypatch.setattr(module, "pairs", lambda: pairs)
        monkeypatch.setattr(module, "more", list)


def test_what_breaks_is_shown_step_by_step_with_status_1(cli: Cli, few: None) -> None:
    outcome = cli("explore")
    assert outcome.status == 1
    assert outcome.error == ""
    assert "4 scenarios" in outcome.output
    assert "I4: A store of a nested guest is missing from the dirty log" in outcome.output
    assert "find the host leaf" in outcome.output
    assert "seen in 2 scenarios of 1 meeting\n" in outcome.output


def test_the_report_is_markdown(cli: Cli, few: None) -> None:
    outcome = cli("explore", "--markdown")
    assert outcome.status == 1
    assert outcome.output.startswith("# Interleavings\n")
    assert "### lost-dirty: " in outcome.output
    assert "| 1 | fault (store) | the nested guest accesses the page |  |" in outcome.output


def test_nothing_broken_is_status_0(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = [s for s in scenarios.pairs(scenarios.STARTS[1:2]) if s.name == "tlbie x unmap"]
    monkeypatch.setattr(scenarios, "pairs", lambda: clean)
    monkeypatch.setattr(scenarios, "more", list)
    outcome = cli("explore")
    assert outcome.status == 0
    assert "2 scenarios" in outcome.output
