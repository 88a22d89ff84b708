"""Kernels x machines x sources: each cell reads the State that the live kernel has.

The kernels of the lab, then kernels of other suites of Debian and QEMUs of other releases.

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
from nestscope.plugin.qemu.other_qemu import fetch_qemu
from nestscope.plugin.target import Target, open_target
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

MODEL = "model"
SYSTEM = "the machine's"
"""The QEMU that is installed; another one is the name of a suite of Debian."""
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

OTHERS = (
    ("sid-64k", "pseries", SYSTEM),
    ("sid-64k", "powernv9", SYSTEM),
    ("sid", "powernv9", SYSTEM),
    ("experimental-64k", "pseries", SYSTEM),
    ("experimental-64k", "powernv9", SYSTEM),
    ("experimental", "pseries", SYSTEM),
    ("bookworm-backports-64k", "pseries", SYSTEM),
    ("6.12-64k", "pseries", "trixie"),
    ("6.12-64k", "powernv9", "trixie"),
    ("6.12-64k", "powernv10", "trixie"),
    ("6.12-64k", "pseries", "sid"),
    ("6.12-64k", "powernv9", "sid"),
)
"""Kernel, machine and QEMU of what no issue names: nightly, and in a table of its own."""

LIMITS = {
    ("6.12-64k", "powernv9", "trixie", "kdump-zlib"): "bitmap of a kdump over 32 TiB",
    ("6.12-64k", "powernv10", "trixie", "kdump-zlib"): "bitmap of a kdump over 32 TiB",
    ("6.12-64k", "powernv9", "sid", "kdump-zlib"): "bitmap of a kdump over 32 TiB",
}
"""Cells that are known to fail; each must fail, and `docs/matrix.md` says "no" and why."""

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
    name, machine, suite = request.param
    if shutil.which(QEMU) is None:
        pytest.skip(f"there is no {QEMU}: install qemu-system-ppc")
    try:
        build_agent()
        files = fetch_kernel(name)
        qemu = QEMU if suite == SYSTEM else str(fetch_qemu(suite))
    except LabError as problem:
        pytest.skip(str(problem))
    begun = time.monotonic()
    with Lab.boot(files, machine=machine, qemu=qemu) as lab:
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
    pytest.param(
        (kernel, machine, SYSTEM),
        column,
        id=f"{kernel}-{machine}-{column}",
        marks=marks((kernel, machine, column)),
    )
    for kernel, machine in product(FLAVOURS, MACHINES)
    for column in COLUMNS
]
OTHER_CELLS = [
    pytest.param(
        row,
        column,
        id="|".join([*row, column]),
        marks=[
            pytest.mark.xfail(strict=True, reason=why)
            for place, why in LIMITS.items()
            if place == (*row, column)
        ],
    )
    for row in OTHERS
    for column in COLUMNS
]


@pytest.mark.parametrize(("booted", "column"), CELLS, indirect=["booted"], scope="module")
def test_cell(
    booted: Booted, column: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    check_cell(booted, column, tmp_path, record_property)


@pytest.mark.kernel
@pytest.mark.nightly
@pytest.mark.parametrize(("booted", "column"), OTHER_CELLS, indirect=["booted"], scope="module")
def test_other_cell(
    booted: Booted, column: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    check_cell(booted, column, tmp_path, record_property)


def check_cell(
    booted: Booted, column: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if column == MODEL:
        version = booted.lab.qmp.command("query-version")["qemu"]
        by_machine = booted.lab.behaviour.sets_rc
        record_property("release", booted.lab.kernel.release)
        record_property("qemu", f"{version['major']}.{version['minor']}.{version['micro']}")
        record_property("rc", "the machine" if by_machine else "the kernel, by interrupt")
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


def tables() -> list[list[list[str]]]:
    """The tables in the docs: of each its rows, of each its cells."""
    found: list[list[list[str]]] = []
    before = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("| "):
            if not before.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return found


def test_the_tables_in_the_docs_have_every_cell_and_none_failed() -> None:
    (heading, *rows), (other_heading, *other_rows) = tables()
    assert heading[-len(COLUMNS) :] == other_heading[-len(COLUMNS) :] == list(COLUMNS)
    assert [tuple(row[:2]) for row in rows] == list(product(FLAVOURS, MACHINES))
    assert [(row[0], row[2]) for row in other_rows] == [row[:2] for row in OTHERS]
    assert {cell for row in rows for cell in row[-len(COLUMNS) :]} == {"yes"}
    failed = {
        (*place, column)
        for place, row in zip(OTHERS, other_rows, strict=True)
        for column, cell in zip(COLUMNS, row[-len(COLUMNS) :], strict=True)
        if cell != "yes"
    }
    assert failed == set(LIMITS)
