"""Verbs that need a live kernel."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

from .conftest import Cli

FINDINGS = Path(__file__).parents[3] / "docs" / "findings"

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


def test_with_audit_a_run_stops_where_the_kernel_breaks_an_invariant(
    cli: Cli, kernel_files: KernelFiles, tmp_path: Path
) -> None:
    trace = FINDINGS / "0001-zero-entry-ends-a-chain.trace"
    outcome = cli("diff", "--audit", trace, "--save", tmp_path, *own(kernel_files))
    assert outcome.status == 1
    assert "no difference between the model and the kernel" in outcome.output
    assert "step 5 breaks an invariant" in outcome.output
    assert "I5" in outcome.output
    (left,) = tmp_path.glob("*.trace")
    assert len(read_trace(left)) == 5


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


def test_walk_shows_both_stages_of_a_nested_address(cli: Cli, clean_lab: Lab) -> None:
    with open_comparison(clean_lab) as live:
        for operation in SCENARIO:
            assert live.comparison.step(operation).differences == ()
        source = f"ram:{clean_lab.ram_path}"
        walked = json.loads(cli("walk", source, "0x2000010", "--lpid", 2, "--json").output)
        shown = cli("walk", source, "0x2000010", "--lpid", 2).output
        nowhere = json.loads(cli("walk", source, "0x4000000", "--lpid", 2, "--json").output)
        state = live.machine.state()
    # The guest's tables lie in pages that the guest itself never touched.
    assert walked["guest"]["leaf"]["real_address"] == "0x900010"
    assert [step["kind"] for step in walked["guest"]["steps"]] == ["table"] * 3 + ["leaf"]
    assert walked["shadow_agrees"] is True
    host = state.vms[0].host_leaves.covering(0x900000)
    assert host is not None
    assert walked["host"]["leaf"]["pte"] == hex(host.pte)
    assert walked["rmap"]["entries"][-1] == {"l1_lpid": 2, "n_gpa": "0x2000000"}
    assert nowhere["guest"]["fault"]["kind"] == "NotPresent"
    assert nowhere["host"] is None
    for text in ("guest's tree", "host's tree", "shadow tree", "leads where the two stages lead"):
        assert text in shown


def test_check_finds_nothing_in_a_healthy_kernel_and_finding_0001_in_a_harmed_one(
    cli: Cli, clean_lab: Lab
) -> None:
    trace = read_trace(FINDINGS / "0001-zero-entry-ends-a-chain.trace")
    source = f"ram:{clean_lab.ram_path}"
    with open_comparison(clean_lab) as live:
        for operation in trace[:3]:
            live.comparison.step(operation)
        assert cli("check", source).status == 0
        for operation in trace[3:]:
            assert live.comparison.step(operation).differences == ()
        outcome = cli("check", source, "--json")
    assert outcome.status == 1
    document = json.loads(outcome.output)
    assert document["schema"] == "nestscope.check/1"
    lost = {(item["rule"], item["l1_lpid"], item["n_gpa"]) for item in document["findings"]}
    # The host took the page away; these two nested guests still map it, without an entry.
    rules = ("I1", "shadow.freed-page")
    assert lost == {(rule, lpid, "0x0") for rule in rules for lpid in (0, 1)}
