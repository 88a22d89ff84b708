"""Kernels x machines x sources: each cell reads the State that the live kernel has.

A cell opens its source with no file at all (of the kernel's files only GDB gets one:
it must know the architecture) and finds everything in the memory or in a profile that
ships. Its State must be the live one, read through shared RAM with the kernel's files, and
its leaves must be those that the kernel itself prints. `docs/matrix.md` is this table,
written by `docs/matrix.py` from a run of these tests.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import pytest

from nestscope.decoders.state import Leaves, State
from nestscope.decoders.state_json import to_json
from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.dumps.capture import capture, write_capture
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.initramfs import build_agent
from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel
from nestscope.plugin.qemu.lab import QEMU, Lab
from nestscope.plugin.qemu.listing import HOST_TREE, parse_listing
from nestscope.plugin.qemu.machine import MACHINES
from nestscope.plugin.target import Target, open_target
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

MODEL = "model"
COLUMNS = (MODEL, "ram", "gdb", "elf", "kdump-zlib", "capture")
"""Whether the model predicted every step; then the sources."""

COVERING = {
    ("6.12-4k", "powernv9", MODEL),
    ("6.12-4k", "powernv9", "ram"),
    ("6.12-4k", "powernv9", "kdump-zlib"),
    ("6.12-64k", "powernv10", MODEL),
    ("6.12-64k", "powernv10", "gdb"),
    ("6.12-64k", "powernv10", "capture"),
    ("6.1-64k", "pseries-power10", MODEL),
    ("6.1-64k", "pseries-power10", "ram"),
    ("6.1-64k", "pseries-power10", "elf"),
}
"""What `make test` runs: each kernel, machine and column (pseries is all over the tests)."""

SEED, STEPS = 11, 120
TABLE = Path(__file__).parents[2] / "docs" / "matrix.md"


@dataclass
class Booted:
    """A machine after some compared steps, its live State, and the kernel's own listing."""

    lab: Lab
    boot_seconds: float
    steps_per_second: float
    differences: list[str]
    live: State
    listed: dict[int | None, Leaves]


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Booted]:
    name, machine = request.param
    if shutil.which(QEMU) is None:
        pytest.skip(f"there is no {QEMU}: install qemu-system-ppc")
    try:
        build_agent()
        files = fetch_kernel(name)
    except LabError as problem:
        pytest.skip(str(problem))
    begun = time.monotonic()
    with Lab.boot(files, machine=machine) as lab:
        boot_seconds = time.monotonic() - begun
        with open_comparison(lab) as live:
            begun = time.monotonic()
            differences = [
                f"step {step.number}: {difference}"
                for operation in islice(random_operations(SEED, LAYOUT), STEPS)
                for step in [live.comparison.step(operation)]
                for difference in step.differences
            ]
            rate = STEPS / (time.monotonic() - begun)
            (reply,) = lab.agent.must(["listing"])
            listed = parse_listing(reply.data.decode())
            yield Booted(lab, boot_seconds, rate, differences, live.machine.state(), listed)


@contextmanager
def opened(source: str, lab: Lab, folder: Path) -> Iterator[Target]:
    """Open the machine's memory through a source of the table."""
    file = folder / source
    match source:
        case "ram":
            name = f"ram:{lab.ram_path}"
        case "gdb":
            with open_target(f"gdb:{lab.gdb_socket}", lab.kernel.vmlinux) as target:
                yield target
            return
        case "capture":
            with open_target(f"ram:{lab.ram_path}") as live:
                made = capture(live.memory, live.kernel, live.source, live.notes)
                write_capture(made, live.memory, live.kernel, file)
            name = str(file)
        case _:
            lab.qmp.dump_guest_memory(file, source)
            name = str(file)
    try:
        with open_target(name) as target:
            yield target
    finally:
        file.unlink(missing_ok=True)  # up to 2 GiB


def leaves(state: State) -> dict[int | None, list[object]]:
    """The leaves of each tree. The kernel's listing leaves nested guest 0 out."""
    (vm,) = state.vms
    nested = {guest.l1_lpid: list(guest.leaves) for guest in vm.nested if guest.l1_lpid}
    return {HOST_TREE: list(vm.host_leaves), **nested}


def without_source(state: State) -> str:
    text = to_json(state)
    return text[text.index('"kernel"') :]


def marks(cell: tuple[str, str, str]) -> list[pytest.MarkDecorator]:
    return [pytest.mark.kernel, *([] if cell in COVERING else [pytest.mark.nightly])]


CELLS = [
    pytest.param(machine, column, id="-".join([*machine, column]), marks=marks((*machine, column)))
    for machine in product(FLAVOURS, MACHINES)
    for column in COLUMNS
]


@pytest.mark.parametrize(("booted", "column"), CELLS, indirect=["booted"], scope="module")
def test_cell(
    booted: Booted, column: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if column == MODEL:
        record_property("boot", f"{booted.boot_seconds:.1f}")
        record_property("rate", f"{booted.steps_per_second:.0f}")
        assert booted.differences == []
        return
    with opened(column, booted.lab, tmp_path) as target:
        state = target.state()
    assert state.problems == ()
    assert without_source(state) == without_source(booted.live)
    assert leaves(state) == {tree: list(found) for tree, found in booted.listed.items()}
    assert len(booted.listed) > 5
    assert state.vms[0].memslots[0].rmap


def test_the_covering_subset_has_each_kernel_machine_and_source() -> None:
    kernels, machines, columns = (set(column) for column in zip(*COVERING, strict=True))
    assert kernels == set(FLAVOURS)
    assert machines == set(MACHINES) - {"pseries"}
    assert columns == set(COLUMNS)


def test_the_table_in_the_docs_has_every_cell_and_none_failed() -> None:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    heading, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert heading[-len(COLUMNS) :] == list(COLUMNS)
    assert [tuple(row[:2]) for row in rows] == list(product(FLAVOURS, MACHINES))
    assert {cell for row in rows for cell in row[-len(COLUMNS) :]} == {"yes"}
