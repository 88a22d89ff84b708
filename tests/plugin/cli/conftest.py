"""Running the command line inside the test's own process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from nestscope.plugin.cli.main import run


class Outcome(NamedTuple):
    status: int
    output: str
    error: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `nestscope ARGUMENTS` and return exit status, standard output and standard error."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nestscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            run()
            sys.exit(0)
        captured = capsys.readouterr()
        code = left.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call
