"""`lab boot` and `lab run`: a machine for other programs, and nothing left of it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestscope.decoders.compare import compare
from nestscope.decoders.kernel.kernel import open_kernel
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import State
from nestscope.plugin.differential.plan import make_plan
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.model import Model

from .conftest import Cli

pytestmark = pytest.mark.kernel


def own(files: KernelFiles) -> list[object]:
    return ["--vmlinux", files.vmlinux, "--modules", files.modules_dir]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def lab(*arguments: object) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """Run `nestscope lab ...` and wait until it stays; what it says to connect to."""
    program = "from nestscope.plugin.cli.main import run; run()"
    command = [sys.executable, "-c", program, "lab", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = {}
        for line in child.stdout:
            name, _, value = line.strip().partition(" ")
            said[name] = value.strip()
            if name == "Ctrl-C":
                break
        try:
            yield child, said
        finally:
            child.kill()


def qemu_of(folder: Path) -> int:
    """The process id of the QEMU whose RAM is in `folder`; its keeper has it in its arguments."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and any(str(folder).encode() in word for word in words):
            return int(path.parent.name)
    raise AssertionError(f"no QEMU of {folder}")


def expected(steps: int, seed: int, observed: State) -> State:
    guest, model = Guest(), Model(HostFacts(page_shift=observed.kernel.page_shift or 0))
    operations = make_plan(None, steps, seed).operations
    for event in guest.setup():
        model.step(event)
    for operation in operations:
        for event in guest.lower(operation):
            model.step(event)
    return model.state()


def test_boot_stays_for_gdb_and_other_programs_until_ctrl_c(kernel_files: KernelFiles) -> None:
    port = free_port()
    with lab("boot", "--gdb-port", port, *own(kernel_files)) as (child, said):
        assert said["gdb"].endswith(f"-ex 'target remote 127.0.0.1:{port}'")
        endpoint = f"127.0.0.1:{port}"
        with (
            GdbSession.connect(endpoint, kernel_files.vmlinux),
            open_source(f"ram:{said['ram']}")[0],
        ):
            pass
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.settimeout(10)
            qmp.connect(said["qmp"])
            assert b'"QMP"' in qmp.recv(4096)
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(10)
            agent.connect(said["agent"])
            agent.sendall(b"hello\n")
            assert agent.recv(4096).startswith(b"ok page_size=")
        folder = Path(said["ram"]).parent
        child.send_signal(signal.SIGINT)
        assert child.wait(15) == 0
        assert not folder.exists()


@pytest.mark.nightly
def test_a_killed_qemu_ends_it_with_status_2(kernel_files: KernelFiles) -> None:
    with lab("boot", *own(kernel_files)) as (child, said):
        folder = Path(said["ram"]).parent
        os.kill(qemu_of(folder), signal.SIGKILL)
        assert child.wait(15) == 2


def test_run_with_dump_executes_the_operations_and_ends(
    cli: Cli, kernel_files: KernelFiles, tmp_path: Path
) -> None:
    dump = tmp_path / "out.dump"
    options = ["--random", 60, "--seed", 17, "--dump", dump, "--format", "kdump-zlib"]
    outcome = cli("lab", "run", *options, *own(kernel_files))
    assert (outcome.status, outcome.error) == (0, "")
    assert "60 operations executed" in outcome.output
    memory, source = open_source(dump)
    with memory:
        kernel = open_kernel(memory, kernel_files.vmlinux, kernel_files.modules_dir)
        found = read_state(memory, kernel, source)
    assert compare(expected(60, 17, found), found) == []
    assert len(found.vms[0].memslots[0].rmap) > 3
