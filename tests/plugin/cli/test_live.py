"""Verbs that need a live kernel."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

from .conftest import Cli

pytestmark = pytest.mark.kernel


def own(files: KernelFiles) -> list[object]:
    return ["--vmlinux", files.vmlinux, "--modules", files.modules_dir]


def test_an_injected_fault_is_status_1_names_the_gfn_and_leaves_a_trace(
    cli: Cli, kernel_files: KernelFiles, tmp_path: Path
) -> None:
    outcome = cli("diff", "--inject", 4, "--save", tmp_path, *own(kernel_files))
    assert outcome.status == 1
    assert "step 4 (map 2 0x1000000 0x900000 64K rwxRC): 1 difference" in outcome.output
    assert "rmap[gfn=0x" in outcome.output
    (trace,) = tmp_path.glob("*.trace")
    assert trace.name == "nestscope-scenario-step4.trace"
    # Without the fault the same operations agree.
    assert cli("diff", trace, *own(kernel_files)).status == 0


def test_an_injection_that_is_never_reached_is_said(cli: Cli, kernel_files: KernelFiles) -> None:
    outcome = cli("diff", "--random", 3, "--inject", 9, *own(kernel_files))
    assert outcome.status == 2
    assert "step 9 was not reached" in outcome.error


def test_state_of_ram_of_a_gdbstub_and_of_a_dump_are_the_same_document(
    cli: Cli, clean_lab: Lab, kernel_files: KernelFiles, tmp_path: Path
) -> None:
    dump = tmp_path / "guest.dump"
    with open_comparison(clean_lab) as live:
        for operation in islice(random_operations(21, LAYOUT), 60):
            assert live.comparison.step(operation).differences == ()
        clean_lab.qmp.dump_guest_memory(dump)
        sources = [f"ram:{clean_lab.ram_path}", f"gdb:{clean_lab.gdb_socket}", dump]
        documents = []
        for source in sources:
            outcome = cli("state", source, "--json", *own(kernel_files))
            assert (outcome.status, outcome.error) == (0, "")
            documents.append(json.loads(outcome.output))
        # The gdbstub's target runs on after the look at it.
        assert clean_lab.agent.must(["hello"])[0].ok
    kinds = [document.pop("source")["kind"] for document in documents]
    assert kinds == ["ram", "gdb", "elf-core"]
    assert documents[0] == documents[1] == documents[2]
    assert documents[0]["vms"][0]["memslots"][0]["rmap"]


def test_state_is_shown_as_tables(cli: Cli, clean_lab: Lab, kernel_files: KernelFiles) -> None:
    with open_comparison(clean_lab) as live:
        for operation in islice(random_operations(22, LAYOUT), 30):
            live.comparison.step(operation)
        outcome = cli("state", f"ram:{clean_lab.ram_path}", *own(kernel_files))
    assert outcome.status == 0
    for text in ("memslots", "nested guests", "rmap of memslot 0", "64 MiB"):
        assert text in outcome.output


def test_another_kernels_image_is_refused(cli: Cli, clean_lab: Lab, tmp_path: Path) -> None:
    image = clean_lab.kernel.vmlinux.read_bytes()
    other = tmp_path / "vmlinux"
    other.write_bytes(re.sub(rb"Linux version \d", b"Linux version 9", image))
    outcome = cli("state", f"ram:{clean_lab.ram_path}", "--vmlinux", other)
    assert outcome.status == 2
    assert "Linux version 9" in outcome.error
