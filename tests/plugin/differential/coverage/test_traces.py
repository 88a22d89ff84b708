"""The traces that come with nestscope reach what they were written for (the whole, nightly)."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nestscope.plugin.cli.app import app
from nestscope.plugin.differential.coverage.measure import shipped_storm, shipped_traces
from nestscope.plugin.differential.coverage.reasons import load_reasons
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import QEMU
from nestscope.sim.events import CollapseHuge, MoveSlot
from nestscope.sim.operations import Order, Tlbie
from nestscope.sim.places import known_places

RIC_ALL = 2
NEWER_QEMU = "NESTSCOPE_QEMU_RC"
"""Names a QEMU that interrupts for R and C, 8.2 or later, to be measured as well."""


@pytest.mark.parametrize("path", [*shipped_traces(), shipped_storm()], ids=lambda path: path.stem)
def test_shipped_traces_can_be_read(path: Path) -> None:
    assert read_trace(path)


def test_huge_pages_of_both_sizes_are_among_them() -> None:
    operations = [operation for path in shipped_traces() for operation in read_trace(path)]
    shifts = {operation.shift for operation in operations if isinstance(operation, CollapseHuge)}
    assert shifts == {21, 30}


def test_drops_and_moved_memslots_meet_other_vcpus() -> None:
    operations = [operation for path in shipped_traces() for operation in read_trace(path)]
    orders = [operation.operations for operation in operations if isinstance(operation, Order)]
    assert any(
        sum(isinstance(one, Tlbie) and one.ric == RIC_ALL for one in order) > 1 for order in orders
    )
    assert any(isinstance(one, MoveSlot) for order in orders for one in order)


def test_places_at_which_traces_hold_somebody_are_known_to_the_model() -> None:
    operations = [operation for path in shipped_traces() for operation in read_trace(path)]
    orders = [operation for operation in operations if isinstance(operation, Order)]
    places = {place for order in orders for turns in order.turns for place in turns if place}
    assert {str(place._replace(times=1)) for place in places} <= set(known_places())


@pytest.mark.kernel
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_every_block_that_does_not_run_has_a_reason_and_no_reason_is_wrong(
    kernel_files: KernelFiles,
) -> None:
    programs = [QEMU, *filter(None, [os.environ.get(NEWER_QEMU)])]
    arguments = [word for program in programs for word in ("--qemu", program)]
    result = CliRunner().invoke(
        app,
        ["coverage", "--kernel", kernel_files.name, "--fail-allocations", "--json", *arguments],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["wrong_reasons"] == []
    if load_reasons(document["kernel"]["build_id"]) is None:
        pytest.skip("nobody has declared reasons for this build yet: see docs/coverage.md")
    unexplained = {
        f"{function['name']}+{block['at']}"
        for function in document["functions"]
        for block in function["block"]
        if not block["count"] and "reason" not in block
    }
    assert unexplained == set()
    short = [f for f in document["functions"] if f["percent_of_possible"] < 90]
    assert len(programs) == 1 or short == []
