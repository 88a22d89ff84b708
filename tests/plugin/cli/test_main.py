"""The command line: exit status, one sentence for an error, nothing else on standard output."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from nestscope.plugin.cli import app

from .conftest import Cli


def test_decode_prints_each_field_with_its_isa_bits(cli: Cli) -> None:
    outcome = cli("decode", "pte", "0xc000000002d50387")
    assert outcome.status == 0
    assert "7:51" in outcome.output
    assert "real address 0x2d50000" in outcome.output


def test_decode_as_json_is_one_document(cli: Cli) -> None:
    outcome = cli("decode", "rmap", "0x0030000001000001", "--json")
    document = json.loads(outcome.output)
    fields = {field["name"]: field["value"] for field in document["fields"]}
    assert document["word"] == "rmap"
    assert fields["l1_lpid"] == "0x3"
    assert fields["n_gpa"] == "0x1000"
    assert outcome.error == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["decode", "pte", "12z"], "'12z' is not a number"),
        (["decode", "pte", "0x10000000000000000"], "64 bits"),
        (["state", "sample:6.12-64k", "--modules", "/nowhere"], "/nowhere is not a folder"),
        (["check", "sample:6.12-64k", "--debug", "/nowhere"], "/nowhere is not a folder"),
        (["lab", "run", "--dump", "/nowhere/x"], "/nowhere/x cannot be written"),
        (["state", ""], "no source is named"),
        (["lab", "run", "--format", "zip", "--kernel", "2.4"], "--format is one of elf, kdump-"),
        (["state", "gdb:"], "no gdbstub is named"),
        (["diff", "--via", "telepathy"], "--via is one of ram, mi"),
        (["diff", "missing.trace"], "missing.trace cannot be read"),
        (["diff", "missing.trace", "--random", "3"], "not both"),
        (["diff", "--vmlinux", "x"], "--modules"),
        (["diff", "--kernel", "2.4"], "there is no kernel '2.4'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(cli: Cli, arguments: list[str], says: str) -> None:
    outcome = cli(*arguments)
    assert outcome.status == 2
    assert outcome.output == ""
    assert says in outcome.error
    assert outcome.error.startswith("nestscope: ")
    assert outcome.error.count("\n") == 1


def test_a_wrong_line_of_a_trace_is_named(cli: Cli, tmp_path: Path) -> None:
    trace = tmp_path / "bad.trace"
    trace.write_text("nestscope-trace 1\nptcr 0x40004\nload 3\n")
    outcome = cli("diff", trace)
    assert outcome.status == 2
    assert "trace line 3, column 7: n_gpa is missing" in outcome.error


def test_a_defect_of_our_own_is_one_line_and_asks_for_a_report(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(app, "app", broken)
    outcome = cli()
    assert outcome.status == 2
    assert "internal error: ZeroDivisionError: by design" in outcome.error
    assert "Traceback" not in outcome.error


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = [sys.executable, "-c", "from nestscope.plugin.cli.main import run; run()"]
    with subprocess.Popen(
        [*program, "decode", "pte", "0xc000000002d50387"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


def test_state_draws_the_chains_and_the_map_of_the_rmap(cli: Cli) -> None:
    figure = cli("state", "sample:6.12-64k", "--figure").output
    heatmap = cli("state", "sample:6.12-64k", "--map").output
    assert "0x80   │ list head ptr │ ─▶ │ next pointer │" in figure
    assert "lpid 12  0x0 │" in figure
    assert "11 chains, 28 entries; a cell is 1 page (64 KiB)" in heatmap
    assert "longest chain:" in heatmap


def test_report_writes_one_page_and_says_what_it_holds(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    outcome = cli("report", "sample:6.12-64k", "-o", page, "--against", "sample:6.1-64k")
    assert outcome.status == 0
    assert outcome.error.endswith("report.html: 1 VM, 6 findings\n")
    assert "Difference to sample:6.1-64k" in page.read_text()


def test_report_that_cannot_be_written_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("report", "sample:6.12-64k", "-o", tmp_path / "no" / "report.html")
    assert outcome.status == 2
    assert "cannot be written: No such file or directory" in outcome.error


def test_the_version_is_that_of_the_installed_package(cli: Cli) -> None:
    outcome = cli("--version")
    assert outcome.output == f"nestscope {version('nestscope')}\n"
    assert outcome.status == 0


PROGRAM = [sys.executable, "-c", "from nestscope.plugin.cli.main import run; run()"]


@pytest.mark.parametrize(
    "arguments",
    [["decode", "pte", "1", "--json"], ["state", "sample:6.12-64k"], ["--version"]],
    ids=["a line", "tables", "before any verb"],
)
def test_a_full_disk_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "nestscope: standard output cannot be written: No space left on device\n"


def test_closed_standard_output_is_no_error() -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "state", "sample:6.12-64k", "--json"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("how", ["--figure", "--map"])
def test_an_encoding_without_box_drawing_shows_question_marks(how: str) -> None:
    done = subprocess.run(
        [*PROGRAM, "state", "sample:6.12-64k", how],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout
    assert b"rmap" in done.stdout


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_number_is_lost_in_a_narrow_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = (
        cli("state", "sample:6.12-64k").output.partition("nested guests")[2].partition("rmap")[0]
    )
    rows = [line.split() for line in table.splitlines()]
    assert ["2830", "14", "1"] in [row[:3] for row in rows]
    assert "…" not in table
    assert all(len(line) <= columns for line in table.splitlines())


def test_an_interruption_is_status_130_even_while_the_verbs_are_imported() -> None:
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'nestscope.plugin.cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from nestscope.plugin.cli.main import run\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nestscope: interrupted\n")
