"""QEMU's command line and run directory."""

import fcntl
import time
from pathlib import Path

import pytest

from nestscope.plugin.qemu import process
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.machine import (
    MACHINES,
    RunFiles,
    command_line,
    find_machine,
    memory_bytes,
)
from nestscope.plugin.qemu.process import Process, make_run_folder


def line(
    folder: str = "/run/x",
    machine: str = "pseries",
    memory: str = "1G",
    gdb: bool = True,
    gdb_port: int | None = None,
) -> list[str]:
    return command_line(
        "qemu",
        RunFiles(Path(folder)),
        Path("vmlinux"),
        Path("initrd"),
        machine=find_machine(machine),
        memory=memory,
        gdb=gdb,
        gdb_port=gdb_port,
    )


@pytest.mark.parametrize(
    ("text", "size"), [("1G", 1 << 30), ("512M", 512 << 20), ("1024", 1 << 30), ("2g", 2 << 30)]
)
def test_memory_sizes(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "1T2", "-1G", "1.5G", "1GG"])
def test_what_is_no_memory_size(text: str) -> None:
    with pytest.raises(LabError, match="is not a memory size"):
        memory_bytes(text)


def test_ram_is_a_shared_file() -> None:
    assert "memory-backend-file,id=ram,size=1073741824,mem-path=/run/x/ram,share=on" in line()


def test_every_socket_is_unix_or_loopback() -> None:
    command = line(gdb_port=1234)
    assert "tcp:127.0.0.1:1234" in command
    for word in line():
        if word.startswith("socket,"):
            assert "path=/run/x/" in word


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_has_console_agent_and_shared_ram(machine: str) -> None:
    command = line(machine=machine)
    assert {"spapr-vty,chardev=console", "chardev:console"} & set(command)
    assert "virtserialport,chardev=agent" in command
    assert any(word.endswith(",memory-backend=ram") for word in command)
    assert command[command.index("-cpu") + 1] in {"POWER9", "POWER10"}


def test_without_gdb_there_is_no_stub() -> None:
    assert "-gdb" not in line(gdb=False)


def test_unknown_machine_and_deep_folder_are_refused() -> None:
    with pytest.raises(LabError, match="there is no machine 'pc'"):
        line(machine="pc")
    with pytest.raises(LabError, match="set TMPDIR to a short path"):
        line(folder="/" + "d" * 120)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(process, "_SHARED_MEMORY", tmp_path)
    return tmp_path


def test_run_folder_is_in_shared_memory_if_the_ram_fits(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_run_folder(1 << 20).parent == shared
    other = shared / "tmp"
    other.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(other))
    assert make_run_folder(1 << 60).parent == other


def test_a_folder_whose_keeper_is_gone_is_removed_and_one_in_use_is_not(shared: Path) -> None:
    gone, used, foreign = (shared / f"nestscope-{name}" for name in ("gone", "used", "foreign"))
    for folder in (gone, used, foreign):
        folder.mkdir()
    (gone / "lock").touch()
    with (used / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_run_folder(1 << 20)
    assert not gone.exists()
    assert used.exists()
    assert foreign.exists()


def test_a_program_that_cannot_start_is_a_lab_error(shared: Path) -> None:
    folder = make_run_folder(1 << 20)
    with pytest.raises(LabError, match=r"QEMU cannot be started: error .*/no/such/qemu"):
        Process(folder, ["/no/such/qemu"])
    assert not folder.exists()


def test_the_end_of_the_program_is_seen_with_its_last_words(shared: Path) -> None:
    child = Process(make_run_folder(1 << 20), ["/bin/sh", "-c", "echo gone wrong >&2; exit 3"])
    for _ in range(100):
        if child.ended():
            break
        time.sleep(0.05)
    assert child.ended() == "status 3"
    assert child.log_tail() == "gone wrong"
    child.close()
    child.close()


def test_a_program_that_ignores_sigterm_is_killed(shared: Path) -> None:
    folder = make_run_folder(1 << 20)
    script = "trap '' TERM; echo ready >&2; while :; do sleep 0.1; done"
    child = Process(folder, ["/bin/sh", "-c", script])
    while not child.log_tail():
        time.sleep(0.02)
    child.close()
    assert not Path(f"/proc/{child.pid}").exists()
    assert not folder.exists()


def test_no_page_is_aged_unless_asked_for() -> None:
    command = line()
    assert "damon_stat.enabled=0" in command[command.index("-append") + 1].split()
