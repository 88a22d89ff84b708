"""Every account under docs/findings: its form, and that its trace shows what it says."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.audit.finding import ERROR
from nestscope.decoders.state import State
from nestscope.decoders.words.pte import PTE_R
from nestscope.plugin.differential.one_side import OneSide
from nestscope.plugin.differential.runner import Step
from nestscope.plugin.differential.session import open_comparison, open_machine
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.plugin.qemu.errors import LabFailure
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from tests.docs.pages import ROOT

FINDINGS = ROOT / "docs" / "findings"
FRAMES = 0x01FF_FFFF_FFFF_F000
ACCOUNTS = sorted(FINDINGS.glob("0*.md"))
TRACES = sorted(FINDINGS.glob("*.trace"))
TABLE = (FINDINGS / "README.md").read_text("utf-8")


def trace(start: str) -> Path:
    (found,) = FINDINGS.glob(f"{start}*.trace")
    return found


@pytest.mark.parametrize("account", ACCOUNTS, ids=lambda path: path.stem[:4])
def test_an_account_has_the_form_that_the_readme_promises(account: Path) -> None:
    text = account.read_text("utf-8")
    assert text.startswith(f"# {account.name[:4]}: ")
    assert "**Suspected defect of Linux" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "What happens"
    assert headings[-1] == "What would mend it"
    assert headings[1] in {"The broken invariant", "What it breaks"}


@pytest.mark.parametrize("account", ACCOUNTS, ids=lambda path: path.stem[:4])
def test_the_table_says_of_an_account_what_it_says_itself(account: Path) -> None:
    text = account.read_text("utf-8")
    (row,) = [line for line in TABLE.splitlines() if f"]({account.name})" in line]
    assert text.splitlines()[0].removeprefix(f"# {account.name[:4]}: ") in row
    assert ("report privately" in row) == ("report privately" in " ".join(text.split()))


@pytest.mark.parametrize("file", TRACES, ids=lambda path: path.stem)
def test_a_trace_is_readable_and_its_account_names_it(file: Path) -> None:
    assert read_trace(file)
    (account,) = FINDINGS.glob(f"{file.name[:4]}*.md")
    assert file.name in account.read_text("utf-8")


def compared(lab: Lab, start: str) -> list[Step]:
    """Run a trace on kernel and model, and require that they agree at every step."""
    with open_comparison(lab) as live:
        steps = [live.comparison.step(operation) for operation in read_trace(trace(start))]
    assert [step.differences for step in steps] == [()] * len(steps)
    return steps


def errors(state: State) -> list[str]:
    return sorted(each.rule for each in audit(state, rc_by_hardware=True) if each.severity == ERROR)


def referenced(state: State) -> tuple[bool, bool]:
    """R of the host leaf and of the shadow leaf that these traces are about."""
    (vm,) = state.vms
    (shadow,) = [leaf for guest in vm.nested for leaf in guest.leaves if leaf.address >= 0x100_0000]
    host = vm.host_leaves.covering(0x91_0000) or vm.host_leaves.covering(0xA0_0000)
    assert host is not None
    return bool(host.pte & PTE_R), bool(shadow.pte & PTE_R)


@pytest.mark.kernel
def test_0001_two_shadow_leaves_outlive_their_page(clean_lab: Lab) -> None:
    steps = compared(clean_lab, "0001")
    assert [errors(step.observed) for step in steps[4:7]] == [["I5.zero-entry"]] * 3
    assert errors(steps[-1].observed) == ["I1", "I1", "shadow.freed-page", "shadow.freed-page"]


@pytest.mark.kernel
def test_0002_of_two_remapped_leaves_one_maps_a_page_that_is_neither(clean_lab: Lab) -> None:
    steps = compared(clean_lab, "0002-mixed")
    (vm,) = steps[-4].observed.vms  # before the pages are taken away
    pages = [vm.host_leaves.covering(gpa) for gpa in (0x90_0000, 0x91_0000, 0x92_0000)]
    numbers = [leaf.pte & FRAMES for leaf in pages if leaf is not None]
    mixed = dict(zip((0x100_0000, 0x101_0000), pairwise(numbers), strict=True))
    (nested,) = vm.nested
    seen = {leaf.address: leaf.pte & FRAMES for leaf in nested.leaves if leaf.address in mixed}
    assert seen == {n_gpa: first | second for n_gpa, (first, second) in mixed.items()}
    # Its entry is in the chain of the first page alone: only if it is that one it is found.
    lost = {n_gpa for n_gpa, (first, _) in mixed.items() if seen[n_gpa] != first}
    last = steps[-1].observed
    assert {leaf.address for leaf in last.vms[0].nested[0].leaves if leaf.address in mixed} == lost
    assert errors(last).count("I1") == len(lost)


@pytest.mark.kernel
def test_0009_the_page_after_the_sampled_one_is_aged_where_there_is_damon(clean_lab: Lab) -> None:
    steps = compared(clean_lab, "0009")
    assert referenced(steps[-2].observed) == (True, True)
    (hello,) = clean_lab.agent.must(["hello"])
    aged = bool(hello["damon"]) and clean_lab.page_size == 0x1_0000  # DAMON's page, not 64K
    assert referenced(steps[-1].observed) == (not aged, not aged)


@pytest.mark.kernel
def test_0010_r_of_the_shadow_leaf_stays(clean_lab: Lab) -> None:
    (hello,) = clean_lab.agent.must(["hello"])
    if not hello["damon"]:
        pytest.skip("this kernel has no DAMON: reclaim takes the page away")
    steps = compared(clean_lab, "0010")
    seen = [referenced(step.observed) for step in steps[4:]]
    assert seen == [(True, True), (False, True), (False, True), (False, True)]


@pytest.mark.kernel
@pytest.mark.nightly
def test_0006_model_and_kernel_empty_the_same_chains(clean_lab: Lab) -> None:
    """Which pages the host gives out, and so whose chains go (I1), is the machine's."""
    steps = compared(clean_lab, "0006-table")
    assert not any(errors(step.observed) for step in steps[:-2])
    assert "I2" in errors(steps[-2].observed)


def alone(files: KernelFiles, start: str) -> tuple[int, LabFailure]:
    """Run a trace on a kernel of its own; return how many steps went well, and how it failed."""
    done = 0
    with Lab.boot(files) as lab, open_machine(lab) as live:
        run = OneSide(Guest(), live.machine)
        run.start()
        with pytest.raises(LabFailure) as failure:
            for operation in read_trace(trace(start)):
                run.step(operation)
                done += 1
    return done, failure.value


@pytest.mark.kernel
@pytest.mark.nightly
def test_0003_the_kernel_writes_before_the_array(kernel_files: KernelFiles) -> None:
    done, failure = alone(kernel_files, "0003")
    assert done == 6
    assert failure.kind == "oops"
    assert "kvmhv_insert_nest_rmap" in str(failure)


@pytest.mark.kernel
@pytest.mark.nightly
def test_0007_the_hypercall_never_ends(kernel_files: KernelFiles) -> None:
    done, failure = alone(kernel_files, "0007")
    assert done == 3
    assert failure.kind == "hung"
