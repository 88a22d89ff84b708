"""Campaigns that are hurt: nothing found is lost, nothing is left running, the status is right."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestscope.plugin.differential.campaign.folder import JOURNAL
from nestscope.plugin.qemu.kernel_files import KernelFiles

pytestmark = pytest.mark.kernel

_PROGRAM = "from nestscope.plugin.cli.main import run; run()"
_SECONDS = 60.0


@contextmanager
def started(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A campaign in a process of its own, without end unless the options give one."""
    command = [sys.executable, "-c", _PROGRAM, "campaign", "--folder", str(folder)]
    command += ["--profile", "calm", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def descendants(pid: int) -> dict[int, str]:
    """Process ids and names of what a process started, at any depth."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            if rest.split()[0] != "Z":
                parents[int(entry.name)] = int(rest.split()[1]), name
    found: dict[int, str] = {}
    front = {pid}
    while front:
        front = {child for child, (parent, _) in parents.items() if parent in front}
        found |= {child: parents[child][1] for child in front}
    return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < limit, f"no {what} within {_SECONDS} s"
        time.sleep(0.02)


def programs(folder: Path) -> list[str]:
    """Names of the programs in the journal, whole lines only."""
    try:
        lines = (folder / JOURNAL).read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    entries = [json.loads(line) for line in lines]
    return [entry["name"] for entry in entries if entry["event"] == "program"]


def gone(pids: dict[int, str]) -> bool:
    """Whether all have ended; whoever inherited one may not have asked for its status yet."""
    for pid in pids:
        try:
            if ") Z " not in Path(f"/proc/{pid}/stat").read_text():
                return False
        except OSError:
            pass
    return True


def named(pids: dict[int, str], start: str) -> int:
    return next(pid for pid, name in pids.items() if name.startswith(start))


@pytest.fixture
def folder(kernel_files: KernelFiles, tmp_path: Path) -> Path:
    return tmp_path / "campaign"


def test_qemu_killed_the_campaign_boots_again_and_is_clean(folder: Path) -> None:
    with started(folder, "--seeds", "3", "--steps", "60") as process:
        wait_for(lambda: len(programs(folder)) >= 1, "program")
        pids = descendants(process.pid)
        os.kill(named(pids, "qemu"), signal.SIGKILL)
        output, errors = process.communicate(timeout=_SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert sorted(programs(folder)) == [f"calm{n}x60" for n in (1, 2, 3)]
    assert "no difference" in output
    wait_for(lambda: gone(pids), "end of all processes")


def test_gdb_killed_the_campaign_begins_anew_and_is_clean(folder: Path) -> None:
    with started(folder, "--seeds", "2", "--steps", "25", "--via", "mi") as process:
        wait_for(lambda: len(programs(folder)) >= 1, "program")
        pids = descendants(process.pid)
        os.kill(named(pids, "gdb"), signal.SIGKILL)
        _, errors = process.communicate(timeout=_SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert sorted(programs(folder)) == ["calm1x25", "calm2x25"]
    wait_for(lambda: gone(pids), "end of all processes")


def test_ctrl_c_ends_in_order_and_the_status_tells_what_was_found(folder: Path) -> None:
    with started(folder, "--for", "1h", "--steps", "100") as process:
        wait_for(lambda: len(programs(folder)) >= 2, "program")
        pids = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0
    assert errors == "nestscope: stopped; the same command goes on from here\n"
    assert "no difference" in output
    wait_for(lambda: gone(pids), "end of all processes")
    assert json.loads((folder / JOURNAL).read_text().splitlines()[-1]) == {
        "event": "end",
        "stopped": True,
    }


def test_killed_at_any_moment_a_campaign_goes_on_where_it_was(folder: Path) -> None:
    options = ("--seeds", "6", "--steps", "100")
    with started(folder, *options) as process:
        wait_for(lambda: len(programs(folder)) >= 2, "program")
        pids = descendants(process.pid)
        process.kill()
        process.wait()
    wait_for(lambda: gone(pids), "end of all processes")
    before = programs(folder)
    assert 2 <= len(before) < 6
    with started(folder, *options) as process:
        _, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0
    assert errors == f"nestscope: going on in {folder}, where {len(before)} programs were run\n"
    after = programs(folder)
    assert after[: len(before)] == before
    assert sorted(after) == [f"calm{n}x100" for n in range(1, 7)]
