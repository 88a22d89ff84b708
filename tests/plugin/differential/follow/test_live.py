"""Following a real kernel: an unmodified workload agrees, a changed entry is noticed."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestscope.plugin.differential.follow.attach import attach
from nestscope.plugin.differential.follow.damage import (
    Damage,
    Injector,
    WordInjector,
    injector,
)
from nestscope.plugin.differential.follow.follower import Follower, Limits, Report
from nestscope.plugin.differential.lab_machine import LabMachine
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
from nestscope.sim.trace import parse
from tests.schemas import hold

from ...cli.conftest import Cli, cli

__all__ = ["cli"]

pytestmark = pytest.mark.kernel

FIRST = SCENARIO[:9]
"""Up to the second mapping of one guest page: single entries and a list."""


HARMLESS = tuple(
    parse(
        f"""nestscope-trace 1
        ptcr {LAYOUT.ptcr:#x}
        map 1 0x1000000 0x900000 64K rwxRC
        store 1 0x1000000 1
        map 2 0x1000000 0x900000 64K rwxRC
        store 2 0x1000000 2
        tlbie ric=0 prs=0 r=1 is=0 lpid=2 ap=5 epn=0x1000
        store 2 0x1000000 3
        map 3 0x3000000 0x900000 64K rR
        load 3 0x3000000"""
    )
)
"""No page is taken away: a kernel that forgets a leaf does not write to freed memory."""
TWICE = "l1_lpid 2 n_gpa 0x1000000 -> l1_lpid 1 n_gpa 0x1000000"
"""The chain into which nested guest 2 enters the page for the second time."""


class Workload(threading.Thread):
    """A guest that does its work, and knows nothing of who follows its host."""

    def __init__(self, machine: LabMachine, guest: Guest, operations: Sequence[Operation]) -> None:
        super().__init__()
        self.machine, self.guest, self.operations = machine, guest, operations
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for operation in self.operations:
                self.machine.execute(self.guest.lower(operation))
        except BaseException as failure:  # noqa: BLE001  it is raised in the test's own thread
            self.failure = failure


@contextmanager
def working(lab: Lab, operations: Sequence[Operation] = SCENARIO) -> Iterator[Workload]:
    """A workload that is ready to start; at the end it must have done everything."""
    with open_machine(lab) as live:
        guest = Guest()
        live.machine.execute(guest.setup())
        workload = Workload(live.machine, guest, operations)
        yield workload
        workload.join(30)
        assert not workload.is_alive()
        if workload.failure is not None:
            raise workload.failure


def follow(
    lab: Lab,
    workload: Workload,
    disturb: Callable[[Follower], object] | None = None,
) -> Report:
    """Follow the lab's kernel, through its gdbstub only, until the workload is done."""
    files = lab.kernel
    with attach(
        f"gdb:{lab.gdb_socket}", files.vmlinux, files.modules_dir, disturb=disturb
    ) as follower:
        workload.start()
        try:
            follower.run(Limits(seconds=60, whole_every=0.5, until=lambda: not workload.is_alive()))
        finally:
            if isinstance(disturb, Injector):
                disturb.undo(follower)
    return follower.report


@contextmanager
def attached(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """The program on a terminal of its own, once it says there that it follows."""
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as child:
            try:
                said = b""
                limit = time.monotonic() + 60
                while b"following" not in said:
                    assert time.monotonic() < limit, said
                    assert child.poll() is None, said
                    if select.select([ours], [], [], 0.1)[0]:
                        said += os.read(ours, 4096)
                yield child
            finally:
                child.kill()
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_scenario_is_followed_call_by_call_without_a_difference(clean_lab: Lab) -> None:
    with working(clean_lab) as workload:
        report = follow(clean_lab, workload)
    assert report.found == []
    calls = report.tally.calls
    # The page that is discarded, and the copy-on-write of the zero page that comes instead.
    assert calls["kvmppc_unmap_pte"] >= 2
    # Eight faults of nested guests that map something, and the host leaves under them.
    assert calls["kvmppc_create_pte"] >= 12
    if "kvmhv_do_nested_tlbie" not in report.missing:
        assert calls["kvmhv_set_partition_table"] == 1
        assert calls["kvmhv_do_nested_tlbie"] == 2
    assert report.wholes >= 1
    assert report.tally.unjudged == 0


@pytest.mark.parametrize("damage", list(Damage))
def test_a_changed_entry_is_noticed_once_and_its_gfn_named(clean_lab: Lab, damage: Damage) -> None:
    damaged = WordInjector(damage, after=3)
    with working(clean_lab, FIRST) as workload:
        report = follow(clean_lab, workload, damaged)
    assert damaged.gfn is not None
    (found,) = report.found
    assert found.difference.path.endswith(f"rmap[gfn={damaged.gfn:#x}]")
    assert (found.difference.observed == "empty") == (damage is Damage.DROP)


@pytest.mark.parametrize(
    ("defect", "call", "where", "expected"),
    [
        ("insert-skipped", "kvmppc_create_pte", "rmap[gfn=0x", "l1_lpid 1 n_gpa 0x"),
        (
            "duplicate-inserted",
            "kvmppc_create_pte",
            "rmap[gfn=0x90]",
            "l1_lpid 2 n_gpa 0x1000000 -> l1_lpid 1 ",
        ),
        ("tlbie-address-skipped", "kvmhv_do_nested_tlbie", "leaves[0x1000000]", "cleared by "),
    ],
)
def test_patched_code_is_noticed_at_the_call_that_does_wrong(
    clean_lab: Lab, defect: str, call: str, where: str, expected: str
) -> None:
    with working(clean_lab, HARMLESS) as workload:
        report = follow(clean_lab, workload, injector(defect, after=1))
    if call in report.missing:
        pytest.skip(f"{call} is not followed in this kernel")
    found = report.found[0]
    assert found.call == call
    assert where in found.difference.path
    assert found.difference.expected.startswith(expected)


def test_patched_code_is_put_back(clean_lab: Lab) -> None:
    with working(clean_lab, HARMLESS) as workload:
        assert follow(clean_lab, workload, injector("insert-skipped", after=1)).found
    clean_lab.agent.must(["destroy"])
    with working(clean_lab, HARMLESS) as workload:
        assert follow(clean_lab, workload).found == []


def test_an_unknown_damage_is_refused_with_the_names_that_there_are(cli: Cli) -> None:
    outcome = cli("follow", "gdb:localhost:1", "--inject", "everything")
    assert outcome.status == 2
    assert "drop, flip, insert-skipped" in outcome.error


def test_afterwards_the_kernel_runs_without_breakpoints(clean_lab: Lab) -> None:
    with working(clean_lab, FIRST) as workload:
        report = follow(clean_lab, workload)
    assert report.stops
    # A breakpoint that was left behind would stop the machine for good here.
    with open_machine(clean_lab) as live:
        guest = Guest()
        clean_lab.agent.must(["destroy"])
        live.machine.execute(guest.setup())
        for operation in FIRST:
            live.machine.execute(guest.lower(operation))
        assert live.machine.state().vms[0].nested


def test_json_tells_of_an_idle_machine_and_the_status_is_0(
    cli: Cli, lab: Lab, kernel_files: KernelFiles
) -> None:
    own = ["--vmlinux", kernel_files.vmlinux, "--modules", kernel_files.modules_dir]
    outcome = cli("follow", f"gdb:{lab.gdb_socket}", "--for", "0.2", "--json", *own)
    assert outcome.status == 0, outcome.error
    document = json.loads(outcome.output)
    assert document["schema"] == "nestscope.follow/1"
    hold(document)
    assert (document["checked"], document["differences"]) == (0, [])
    assert document["compared_as_a_whole"] >= 1
    assert lab.agent.must(["hello"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_machine_runs_on(
    clean_lab: Lab, kernel_files: KernelFiles, number: signal.Signals
) -> None:
    own = ["--vmlinux", str(kernel_files.vmlinux), "--modules", str(kernel_files.modules_dir)]
    program = Path(sys.executable).with_name("nestscope")
    command = [str(program), "follow", f"gdb:{clean_lab.gdb_socket}", "--json", *own]
    with open_machine(clean_lab) as live:
        with attached(command) as child:
            # The guest's own set-up waits at breakpoints.
            live.machine.execute(Guest().setup())
            child.send_signal(number)
            output, _ = child.communicate(timeout=30)
        document = json.loads(output)
        assert (child.returncode, document["ended"]) == (0, "interrupted")
        guest = Guest()
        clean_lab.agent.must(["destroy"])
        live.machine.execute(guest.setup())
        for operation in FIRST:
            live.machine.execute(guest.lower(operation))


def test_what_does_not_run_cannot_be_followed(cli: Cli) -> None:
    outcome = cli("follow", "dump.elf")
    assert (outcome.status, outcome.output) == (2, "")
    assert "give gdb:HOST:PORT" in outcome.error


def test_a_wrong_duration_is_refused(cli: Cli) -> None:
    assert cli("follow", "gdb:localhost:1", "--for", "soon").status == 2


@pytest.mark.nightly
def test_a_target_that_goes_away_ends_with_status_2(cli: Cli, kernel_files: KernelFiles) -> None:
    with Lab.boot(kernel_files) as booted:
        own = ["--vmlinux", kernel_files.vmlinux, "--modules", kernel_files.modules_dir]
        end = threading.Timer(3.0, booted.close)
        end.start()
        outcome = cli("follow", f"gdb:{booted.gdb_socket}", "--for", "30s", *own)
        end.join()
    assert outcome.status == 2
    assert outcome.error.startswith("nestscope: ")
