"""Every command line of README and documentation is run, or marked and at least parsed."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from nestscope.plugin.cli.app import app
from tests.docs.pages import ROOT, Block, blocks, pages
from tests.plugin.cli.conftest import Cli, cli  # noqa: F401  a fixture

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}


def parsed(arguments: list[str]) -> None:
    """Hold a command line to the verbs and options that there are."""
    command: Any = typer.main.get_command(app)
    rest = arguments
    while hasattr(command, "commands"):
        if rest[:1] == ["--help"]:
            return
        name, *rest = rest
        command = command.commands[name]
    command.make_context(name, rest)


@pytest.mark.parametrize("name", PAGES)
def test_commands_that_need_nothing_are_run_in_their_order(
    name: str,
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[name]):
        if block.language != "console" or not block.is_run:
            continue
        for arguments in block.commands():
            outcome = cli(*arguments)
            assert outcome.status == block.status, (block.where, arguments, outcome.error)


@pytest.mark.parametrize("name", PAGES)
def test_commands_that_are_marked_are_at_least_parsed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[name]):
        for arguments in block.commands():
            parsed(arguments)  # click names what is wrong


@pytest.mark.parametrize("name", PAGES)
def test_a_mark_has_a_reason(name: str) -> None:
    for block in blocks(PAGES[name]):
        assert re.fullmatch(r"|status \d|not run: .{8,}", block.mark), (block.where, block.mark)


@pytest.mark.parametrize("name", PAGES)
def test_python_of_the_pages_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[name]):
        if block.language == "python" and block.is_run:
            exec(compile(block.text, block.where, "exec"), {})


@pytest.mark.parametrize("name", PAGES)
def test_no_command_hides_in_a_block_that_is_not_looked_at(name: str) -> None:
    text = PAGES[name].read_text("utf-8")
    seen = "".join(block.text for block in blocks(PAGES[name]) if block.language == "console")
    for line in text.splitlines():
        if re.match(r"\s*\$? ?(\.venv/bin/)?nestscope (?!is|keeps|does|shows|and)\w+ .*", line):
            assert line in seen, f"{name}: {line}"


def test_the_parser_of_pages_reads_marks_and_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n<!-- not run: needs a machine -->\n"
        "```console\n$ nestscope lab boot  # boots\nhello\n```\n"
        "```console\n$ .venv/bin/nestscope state 'a b'\n```\n"
    )
    first, second = blocks(page)
    assert not first.is_run
    assert list(first.commands()) == [["lab", "boot"]]
    assert second.is_run
    assert list(second.commands()) == [["state", "a b"]]
    assert isinstance(first, Block)
    assert os.sep in str(page)
