"""`nestscope gdb`: the line to source, and GDB with the plugin in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NESTSCOPE = [sys.executable, "-c", "from nestscope.plugin.cli.main import run; run()"]


def run(*arguments: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*NESTSCOPE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"NESTSCOPE_CACHE": str(cache)},
    )


def test_the_printed_line_loads_the_plugin_into_any_gdb(tmp_path: Path) -> None:
    printed = run("gdb", "--print", cache=tmp_path)
    line = printed.stdout.strip()
    assert (printed.returncode, printed.stderr) == (0, "")
    assert line.startswith(f"source {tmp_path}")
    # The same installation gives the same file, so the line can stay in ~/.gdbinit.
    assert run("gdb", "--print", cache=tmp_path).stdout.strip() == line
    shown = subprocess.run(
        ["gdb-multiarch", "-nx", "-batch", "-ex", line, "-ex", line, "-ex", "help nested"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "nested chain --" in shown.stdout
    assert shown.stderr == ""


def test_other_arguments_are_for_gdb(tmp_path: Path) -> None:
    shown = run(
        "gdb", "-nx", "-batch", "-ex", "nested decode pte 1", "-ex", "p 40+2", cache=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    assert "EAA" in shown.stdout
    assert "$1 = 42" in shown.stdout


def test_another_gdb_that_is_not_there(tmp_path: Path) -> None:
    shown = run("gdb", "--gdb", "nogdb", cache=tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.strip() == (
        "nestscope: there is no nogdb: install gdb-multiarch (Debian: apt install gdb-multiarch), "
        "or name another GDB with --gdb"
    )


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shown = run("gdb", "--print", cache=tmp_path / "file")
    assert shown.returncode == 2
    assert "cannot be written" in shown.stderr


@pytest.mark.parametrize("version", ["2.7.18", "3.5.2"])
def test_an_old_python_in_gdb_is_told(tmp_path: Path, version: str) -> None:
    loader = run("gdb", "--print", cache=tmp_path).stdout.split()[1]
    numbers = tuple(int(part) for part in version.split("."))
    pretend = f"import sys; sys.version_info = {numbers}; sys.version = '{version} (x)'; "
    shown = subprocess.run(
        [sys.executable, "-c", f"{pretend}exec(open({loader!r}).read())"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert shown.stdout.strip() == (
        f"nestscope needs a GDB with Python 3.6 or later, this one has Python {version}"
    )
