"""Traces of what VMM and host do to a guest: the model and the live kernel agree on each step."""

from pathlib import Path

import pytest

from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.constants import ENOTTY, U64
from nestscope.sim.events import ClearDirtyLog, GetDirtyLog, Migrate
from nestscope.sim.trace import format_operation

pytestmark = pytest.mark.kernel

TRACES = sorted((Path(__file__).parent / "traces").glob("*.trace"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_trace_of_the_hosts_own_events_agrees_step_by_step(clean_lab: Lab, path: Path) -> None:
    with open_comparison(clean_lab) as live:
        for operation in read_trace(path):
            step = live.comparison.step(operation)
            assert step.differences == (), format_operation(operation)
            (*_, last) = step.results or (None,)
            if isinstance(operation, ClearDirtyLog):
                assert last is not None and last.ret == U64 & -ENOTTY
            if isinstance(operation, Migrate):
                assert last is not None and last.value == 1, "the kernel moved no page"
            if isinstance(operation, GetDirtyLog):
                assert last is not None and last.ret == 0


def test_a_vm_is_destroyed_and_made_again_within_a_moment(clean_lab: Lab) -> None:
    """What a campaign does between programs; each time the kernel holds one clean VM."""
    for _ in range(5):
        clean_lab.agent.must(["destroy"])
        with open_comparison(clean_lab) as live:
            (vm,) = live.machine.state().vms
            assert (vm.nested, len(vm.memslots), vm.l1_ptcr) == ((), 1, 0)
            assert len(vm.host_leaves) == 0
