"""What `follow` prints, and what it shows while it goes on."""

import io
import sys

import pytest
from rich.console import Console

from nestscope.decoders.compare import Difference
from nestscope.decoders.state import KernelInfo, Source
from nestscope.plugin.differential.follow.checks import Tally
from nestscope.plugin.differential.follow.follower import Found, Report
from nestscope.plugin.present import follow_view
from nestscope.plugin.present.follow_view import (
    calls_table,
    follow_document,
    found_line,
    live_view,
    summary,
)
from tests.schemas import hold, validator

DIFFERENCE = Difference("vms[kvm=0x1].rmap[gfn=0x90]", "l1_lpid 1 n_gpa 0x0", "empty")


def made() -> Report:
    tally = Tally(calls={"kvmppc_unmap_pte": 3, "kvmppc_create_pte": 1997}, leaves=12)
    return Report(tally, found=[Found(1.5, "", DIFFERENCE)], seconds=100.0, stops=4000, foreign=7)


def test_the_summary_has_rate_stops_and_differences() -> None:
    text = summary(made())
    assert "2 000 calls checked in 100.0 s (20.0/s, 4 000 stops, 7 of them in a guest)" in text
    assert text.endswith("1 difference")


def test_while_it_goes_on_the_rate_is_that_of_the_time_so_far() -> None:
    assert "2 000 calls checked in 50.0 s (40.0/s" in summary(made(), 50.0)


def test_functions_are_listed_by_name() -> None:
    console = Console(file=io.StringIO(), width=60)
    console.print(calls_table(made()))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert shown.index("kvmppc_create_pte") < shown.index("kvmppc_unmap_pte")
    assert "1 997" in shown


def test_a_difference_without_a_call_showed_when_everything_was_compared() -> None:
    assert "comparing everything: vms[kvm=0x1]" in found_line(made().found[0])


def test_the_document_is_as_its_schema_says() -> None:
    source, kernel = Source("gdb", "localhost:1"), KernelInfo("6.12", 16)
    document = follow_document(source, kernel, made(), "limit")
    hold(document)
    assert document["differences"][0]["call"] is None
    assert not validator("follow").is_valid(document | {"ended": "soon"})
    assert not validator("follow").is_valid(document | {"differences": [{"seconds": 1}]})


def test_nothing_is_shown_where_standard_error_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with live_view(made()):
        pass
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_shows_the_figures_and_leaves_standard_output_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(
        follow_view,
        "Console",
        lambda **_: Console(file=shown, force_terminal=True, width=100, height=40),
    )
    before = sys.stdout
    with live_view(made()):
        assert sys.stdout is before
    assert "2 000 calls checked" in shown.getvalue()
