"""What happens to machine, VM and GDB meanwhile: nothing is lost, nothing is left behind."""

import os
import signal
import sys
from pathlib import Path

import pytest

from nestscope.plugin.differential.follow.attach import attach
from nestscope.plugin.differential.follow.follower import Follower, Limits
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.mi.errors import GdbGoneError
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.trace import HEADERS, parse

from ...cli.conftest import Cli, cli
from .test_live import FIRST, HARMLESS, Workload, attached, follow, working

__all__ = ["cli"]

pytestmark = pytest.mark.kernel

HVA = 0x2000_0000_0000
LIFE = tuple(
    parse(
        f"""{HEADERS[-1]}
        ptcr 0x40004
        slot 1 0x4000000 0x1000000 {HVA:#x} 0
        map 1 0x1000000 0x4000000 64K rwxRC
        store 1 0x1000000 5
        slotflags 1 1
        store 1 0x1000000 6
        dirtylog 1
        store 1 0x1000000 7
        slotflags 1 0
        collapse 0x4200000 2M
        map 2 0x1200000 0x4200000 2M rwxRC
        store 2 0x1200000 8
        age 0x4000000 0x10000
        together load 1 0x1000000 | load 2 0x1200000
        split 0x4200000 2M
        drop 2
        moveslot 1 0x6000000
        unslot 1
        destroy
        create
        ptcr 0x40004
        map 1 0x1000000 0x900000 64K rwxRC
        store 1 0x1000000 9"""
    )
)
"""Memslots made, logged, moved, deleted; huge pages; the VM ends, and another one is made."""


def test_memslots_logging_huge_pages_and_a_second_vm_make_no_difference(clean_lab: Lab) -> None:
    with working(clean_lab, LIFE) as workload:
        report = follow(clean_lab, workload)
    assert report.found == []
    calls = report.tally.calls
    assert calls["kvmppc_create_pte"] >= 8
    # Logging that begins takes all leaves of the slot, a moved or deleted slot as well.
    assert calls["kvmppc_unmap_pte"] >= 3
    assert calls["kvmhv_update_nest_rmap_rc_list"] >= 1


def test_attached_again_in_the_middle_it_takes_over_what_is_there(clean_lab: Lab) -> None:
    endpoint = f"gdb:{clean_lab.gdb_socket}"
    own = clean_lab.kernel.vmlinux, clean_lab.kernel.modules_dir
    with open_machine(clean_lab) as live:
        guest = Guest()
        live.machine.execute(guest.setup())
        for operation in FIRST:
            live.machine.execute(guest.lower(operation))
        for _ in range(2):
            with attach(endpoint, *own) as follower:
                (vm,) = follower.start.vms
                assert {chain.form for chain in vm.memslots[0].rmap} == {"list"}
                assert all(len(nested.leaves) for nested in vm.nested)
                follower.run(Limits(seconds=0.5))
            assert follower.report.found == []
        workload = Workload(live.machine, guest, SCENARIO[len(FIRST) :])
        report = follow(clean_lab, workload)
        workload.join(30)
        assert workload.failure is None
    assert report.found == []
    assert report.tally.calls["kvmppc_unmap_pte"] >= 2


def test_when_gdb_dies_the_machine_is_freed_of_breakpoints(clean_lab: Lab) -> None:
    def kill(follower: Follower) -> None:
        if follower.report.checked >= 2:
            os.kill(follower.session.transport.pid, signal.SIGKILL)

    # `working` wants the whole workload done in the end: at a breakpoint it would hang.
    with working(clean_lab, HARMLESS) as workload, pytest.raises(GdbGoneError):
        follow(clean_lab, workload, kill)
    clean_lab.agent.must(["hello"])


def test_after_a_kill_that_cannot_be_caught_following_for_no_time_frees_the_machine(
    cli: Cli, clean_lab: Lab
) -> None:
    target = f"gdb:{clean_lab.gdb_socket}"
    files = clean_lab.kernel
    own = ["--vmlinux", str(files.vmlinux), "--modules", str(files.modules_dir)]
    program = str(Path(sys.executable).with_name("nestscope"))
    with attached([program, "follow", target, *own]) as child:
        child.kill()
    outcome = cli("follow", target, "--for", "0s", *own)
    assert outcome.status == 0, outcome.error
    with working(clean_lab, HARMLESS) as workload:
        workload.start()
