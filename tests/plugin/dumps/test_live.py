"""Captures and converted dumps of a real kernel."""

import json
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nestscope.decoders.state import State
from nestscope.plugin.cli.app import app
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.qemu.lab import Lab
from nestscope.plugin.target import open_target
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

pytestmark = pytest.mark.kernel

MARKER = b"a secret of the guest: 0123456789"


def answer(*arguments: str) -> str:
    """Return what a command prints as JSON, without the name of the source."""
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code in (0, 1), done.output
    document = json.loads(done.stdout)
    document.pop("source", None)
    return json.dumps(document)


def run(*arguments: str) -> None:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def walks(state: State) -> list[list[str]]:
    """Return arguments of walks: to some leaves, into nothing, and to guest addresses."""
    (vm,) = state.vms
    found = [["0x10000"], ["0x3000000"], ["0x123456789000"]]
    for guest in vm.nested[:4]:
        leaves = list(guest.leaves)[:2]
        found += [[hex(leaf.address), "--lpid", str(guest.l1_lpid)] for leaf in leaves]
        found.append(["0x777000", "--lpid", str(guest.l1_lpid)])
    return found


def test_every_command_says_the_same_of_a_dump_its_kdump_its_capture_and_its_conversion(
    clean_lab: Lab, tmp_path: Path
) -> None:
    elf, kdump = tmp_path / "dump.elf", tmp_path / "dump.kdump"
    capture, converted = tmp_path / "capture.elf", tmp_path / "vmcore"
    with open_comparison(clean_lab) as live:
        for operation in (*SCENARIO, *islice(random_operations(30, LAYOUT), 120)):
            assert live.comparison.step(operation).differences == ()
        # A free page of the guest, and beside its translation tables.
        for place in (LAYOUT.size - 0x10000, LAYOUT.partition_table + 0xF000):
            clean_lab.agent.must([f"write {place:#x} {MARKER.hex()}"])
        state = live.machine.state()
        clean_lab.qmp.dump_guest_memory(elf)
        clean_lab.qmp.dump_guest_memory(kdump, "kdump-zlib")
    run("capture", str(elf), "-o", str(capture))
    run("convert", str(kdump), "-o", str(converted))
    assert MARKER in elf.read_bytes()
    assert MARKER not in capture.read_bytes()
    others = [str(kdump), str(capture), str(converted)]
    for verb in ("state", "check"):
        expected = answer(verb, str(elf))
        assert [answer(verb, other) for other in others] == [expected] * 3
    for arguments in walks(state):
        expected = answer("walk", str(elf), *arguments)
        assert answer("walk", str(capture), *arguments) == expected
    run("capture", str(elf), "-o", str(tmp_path / "packed.xz"))
    assert (tmp_path / "packed.xz").stat().st_size < 1_000_000
    _drgn_reads(converted, elf)


def _drgn_reads(converted: Path, original: Path) -> None:
    drgn = pytest.importorskip("drgn", reason="drgn is not installed: pip install drgn")
    refused = drgn.Program()
    refused.set_core_dump(str(original))
    assert not refused.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    program = drgn.Program()
    program.set_core_dump(str(converted))
    assert program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    with open_target(str(converted)) as target:
        banner = target.kernel.symbols["linux_banner"].address
    assert program.read_c_string(banner).startswith(b"Linux version 6.")
