"""What goes wrong becomes one clear sentence, and leaves no process behind."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nestscope.plugin.gdb.loader import GDB, GdbError, check_gdb, write_loader
from nestscope.plugin.gdb.terminal import GdbTerminal
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import QEMU, Lab
from nestscope.plugin.qemu.machine import RunFiles, command_line, find_machine
from nestscope.plugin.qemu.process import Process, make_run_folder

from .conftest import World
from .proxy import CountingProxy


def workers_of(pid: int) -> list[int]:
    """The worker processes that a GDB has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"nestscope.plugin.gdb.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def gone(pid: int) -> bool:
    """Wait up to 20 s for the end of a process."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def sentence(text: str) -> str:
    """The one line that a command printed."""
    lines = [line for line in text.strip().splitlines() if line.startswith("nested")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_no_target() -> None:
    with GdbTerminal() as gdb:
        assert "GDB has no target: connect with `target remote" in sentence(gdb.run("nested vms"))
        # Decoding needs none.
        assert "0x2d50" in gdb.run("nested decode pte 0xc000000002d50387")


@pytest.mark.kernel
class TestLive:
    def test_no_vm(self, clean_lab: Lab) -> None:
        with GdbTerminal([clean_lab.kernel.vmlinux]) as gdb:
            gdb.run(f"target remote {clean_lab.gdb_socket}")
            assert "there is no VM in this kernel" in gdb.run("nested vms")
            shown = sentence(gdb.run("nested chain 0"))
            assert shown == "nested: there is no VM in this kernel"
            assert "0 VMs" in gdb.run("nested check")
            gdb.run("detach")

    def test_detach_at_any_moment_and_attach_again(self, world: World) -> None:
        with GdbTerminal([world.lab.kernel.vmlinux]) as gdb:
            gdb.run(f"target remote {world.lab.gdb_socket}")
            assert "radix" in gdb.run("nested vms")
            gdb.run("detach")
            assert "GDB has no target" in sentence(gdb.run("nested vms"))
            # The machine runs on: its agent answers.
            assert world.lab.agent.run(["hello"])[0].ok
            gdb.run(f"target remote {world.lab.gdb_socket}")
            assert "radix" in gdb.run("nested vms")
            gdb.run("detach")

    def test_the_target_runs(self, world: World) -> None:
        with GdbTerminal([world.lab.kernel.vmlinux]) as gdb:
            gdb.run("set mi-async on")
            gdb.run(f"target remote {world.lab.gdb_socket}")
            gdb.run("continue &")
            assert "the target is running: stop it first" in sentence(gdb.run("nested vms"))
            gdb.run("interrupt")
            gdb.run("echo")
            limit = time.monotonic() + 10
            while "radix" not in gdb.run("nested vms"):
                assert time.monotonic() < limit
            gdb.run("detach")

    def test_the_target_goes_away(self, world: World, socket_folder: Path) -> None:
        with (
            CountingProxy(socket_folder / "stub", world.lab.gdb_socket) as proxy,
            GdbTerminal([world.lab.kernel.vmlinux]) as gdb,
        ):
            gdb.run(f"target remote {proxy.path}")
            assert "radix" in gdb.run("nested vms")
            gdb.run("stepi")
            proxy.cut()
            time.sleep(0.2)
            first = sentence(gdb.run("nested vms"))
            assert "the target is gone" in first or "GDB has no target" in first
            assert "connect" in first
            assert "GDB has no target" in sentence(gdb.run("nested vms"))
            gdb.run(f"target remote {proxy.path}")
            assert "radix" in gdb.run("nested vms")
            gdb.run("detach")

    @pytest.mark.parametrize(
        "tcp", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["unix", "tcp"]
    )
    def test_the_target_goes_away_in_the_middle_of_a_command(
        self, world: World, socket_folder: Path, tcp: bool
    ) -> None:
        with (
            CountingProxy(socket_folder / "stub", world.lab.gdb_socket, tcp=tcp) as proxy,
            GdbTerminal([world.lab.kernel.vmlinux]) as gdb,
        ):
            for packets in (1, 12, 30):
                gdb.run(f"target remote {proxy.name}")
                proxy.cut_after = len(proxy.packets) + packets
                shown = gdb.run("nested check")
                told = [line for line in shown.splitlines() if line.startswith("nested: ")]
                assert "connect with `target remote`" in told[-1]
                assert "Traceback" not in shown
                gdb.run("disconnect")
            gdb.run(f"target remote {proxy.name}")
            assert "radix" in gdb.run("nested vms")
            gdb.run("detach")

    def test_a_stub_that_is_not_qemus(self, world: World, socket_folder: Path) -> None:
        """As kgdb: no physical mode, no monitor, only what the vCPU's addresses reach."""
        refuse = (b"qqemu", b"Qqemu", b"qRcmd")
        gfn = 0x90_0000 >> (world.state().kernel.page_shift or 0)
        with (
            CountingProxy(socket_folder / "stub", world.lab.gdb_socket, refuse) as proxy,
            GdbTerminal([world.lab.kernel.vmlinux]) as gdb,
        ):
            gdb.run(f"target remote {proxy.path}")
            slot = world.vm.memslots[0]
            chain = slot.rmap.of(gfn)
            assert chain is not None
            pairs = " ".join(f"({entry.l1_lpid}, {entry.n_gpa:#x})" for entry in chain.entries)
            assert gdb.run(f"output $_nested_chain({gfn:#x})") == f'"list {pairs}"'
            for command in ("vms", "slots", "guests", "stats", "check", "target"):
                assert "not read" not in gdb.run(f"nested {command}")
            assert "leads where" in gdb.run("nested walk 0x2000000 --lpid 2")
            gdb.run("detach")

    def test_the_worker_ends_with_gdb(self, world: World) -> None:
        with GdbTerminal([world.lab.kernel.vmlinux]) as gdb:
            gdb.run(f"target remote {world.lab.gdb_socket}")
            assert workers_of(gdb.pid) == []  # nothing before the first use
            gdb.run("nested vms")
            (worker,) = workers_of(gdb.pid)
            gdb.run("detach")
        assert gone(worker)

    def test_the_worker_ends_with_a_gdb_that_is_killed(self) -> None:
        gdb = GdbTerminal()
        gdb.run("nested decode pte 1")
        (worker,) = workers_of(gdb.pid)
        os.kill(gdb.pid, signal.SIGKILL)
        assert gone(worker)
        gdb.close()

    def test_ctrl_c_ends_a_command_that_takes_long(self) -> None:
        with GdbTerminal() as gdb:
            gdb.run("nested decode pte 1")
            (worker,) = workers_of(gdb.pid)
            os.kill(worker, signal.SIGSTOP)
            gdb.send("nested decode pte 1")
            time.sleep(1.0)  # for GDB to send the command on
            gdb.interrupt()
            assert sentence(gdb.wait()) == "nested: interrupted"
            assert gone(worker)
            assert "EAA" in gdb.run("nested decode pte 1")

    def test_a_killed_worker_is_told_and_replaced(self) -> None:
        with GdbTerminal() as gdb:
            gdb.run("nested decode pte 1")
            (worker,) = workers_of(gdb.pid)
            os.kill(worker, signal.SIGKILL)
            assert gone(worker)
            shown = sentence(gdb.run("nested decode pte 1"))
            assert "the worker of nestscope ended (status -9" in shown
            assert "EAA" in gdb.run("nested decode pte 1")
            assert len(workers_of(gdb.pid)) == 1


class TestInstallation:
    def test_the_environment_is_gone(self, tmp_path: Path) -> None:
        loader = tmp_path / "loader.py"
        text = write_loader().read_text()
        line = text.strip().splitlines()[-1]
        folder = line.split(", ", 1)[1]
        loader.write_text(text.replace(line, f"_load('/nonexistent/python', {folder}"))
        with GdbTerminal(loader=loader) as gdb:
            shown = sentence(gdb.run("nested decode pte 1"))
        assert "/nonexistent/python, is not there any more" in shown
        assert "nestscope gdb --print" in shown

    def test_the_environment_has_no_nestscope(self, tmp_path: Path) -> None:
        loader = tmp_path / "loader.py"
        text = write_loader().read_text()
        line = text.strip().splitlines()[-1]
        folder = line.split(", ", 1)[1]
        # The system's Python, which has no nestscope.
        loader.write_text(text.replace(line, f"_load('/usr/bin/python3', {folder}"))
        with GdbTerminal(loader=loader) as gdb:
            shown = sentence(gdb.run("nested decode pte 1"))
        assert "has no working nestscope any more" in shown

    def test_the_package_is_gone(self, tmp_path: Path) -> None:
        loader = tmp_path / "loader.py"
        text = write_loader().read_text()
        line = text.strip().splitlines()[-1]
        loader.write_text(text.replace(line, "_load('/usr/bin/python3', '/nonexistent')"))
        shown = subprocess.run(
            [GDB, "-nx", "-batch", "-iex", f"source {loader}", "-ex", "echo alive"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert "nestscope is not in /nonexistent any more" in shown.stdout
        assert "alive" in shown.stdout

    def test_a_gdb_without_python(self, tmp_path: Path) -> None:
        fake = tmp_path / "gdb"
        fake.write_text(
            "#!/bin/sh\necho 'Python scripting is not supported in this copy of GDB.' >&2\nexit 1\n"
        )
        fake.chmod(0o755)
        with pytest.raises(GdbError, match=r"was built without Python.*install gdb-multiarch"):
            check_gdb(str(fake))

    def test_no_gdb(self) -> None:
        with pytest.raises(GdbError, match="there is no nogdb: install gdb-multiarch"):
            check_gdb("nogdb")

    def test_the_gdb_here_is_good(self) -> None:
        check_gdb(GDB)


@pytest.mark.kernel
@pytest.mark.nightly
def test_a_real_kernel_without_kvm(kernel_files: KernelFiles) -> None:
    """Without an initramfs nobody loads the modules; the kernel panics, and QEMU keeps it."""
    files = RunFiles(make_run_folder(1 << 30))
    command = command_line(
        shutil.which(QEMU) or QEMU,
        files,
        kernel_files.vmlinux,
        Path("/none"),
        machine=find_machine("pseries"),
        memory="1G",
        gdb=True,
        gdb_port=None,
    )
    at = command.index("-initrd")
    process = Process(files.folder, command[:at] + command[at + 2 :])
    try:
        limit = time.monotonic() + 60
        while not files.console.exists() or b"panic" not in files.console.read_bytes():
            assert time.monotonic() < limit
            time.sleep(0.1)
        with GdbTerminal([kernel_files.vmlinux]) as gdb:
            gdb.run(f"target remote {files.gdb}")
            for verb in ("vms", "chain 0", "check", "stats"):
                shown = sentence(gdb.run(f"nested {verb}"))
                assert shown.startswith("nested: the kvm modules are not loaded in this kernel")
            assert "kvm modules   none" in gdb.run("nested target")
            gdb.run("detach")
    finally:
        process.close()
