"""`diff --on`: one side alone, without the other."""

from pathlib import Path

import pytest

from nestscope.plugin.qemu.lab import Lab
from tests.plugin.cli.conftest import Cli

ROOT = Path(__file__).parents[3]
ZERO_ENTRY = ROOT / "docs" / "findings" / "0001-zero-entry-ends-a-chain.trace"


@pytest.fixture
def without_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No QEMU, no GDB, no compiler, no kernel."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path))


@pytest.mark.usefixtures("without_programs")
def test_the_model_alone_needs_no_qemu(cli: Cli) -> None:
    outcome = cli("diff", "--on", "model")
    assert (outcome.status, outcome.error) == (0, "")
    assert "on the model alone: nothing was compared" in outcome.output
    assert "steps executed" in outcome.output
    assert "yes" not in outcome.output


@pytest.mark.usefixtures("without_programs")
def test_the_model_alone_can_be_audited(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("diff", "--on", "model", "--audit", "--save", tmp_path, ZERO_ENTRY)
    assert outcome.status == 1
    assert "model's State at step 5 breaks an invariant" in outcome.output
    assert len(list(tmp_path.glob("nestscope-*-step5.trace"))) == 1


@pytest.mark.usefixtures("without_programs")
def test_page_size_and_machine_are_those_of_the_names(cli: Cli, tmp_path: Path) -> None:
    """A kernel with 64K pages refuses a 4K leaf of the guest; powernv takes no tlbie of 2M."""
    trace = tmp_path / "small.trace"
    trace.write_text(
        "nestscope-trace 1\nptcr 0x40004\nmap 1 0x1001000 0x901000 4K rwxRC\nload 1 0x1001000\n"
        "tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=1 epn=0x1000\n"
    )
    seen = {
        (kernel, machine): cli(
            "diff", "--on", "model", trace, "--kernel", kernel, "--machine", machine
        ).output
        for kernel in ("6.12-4k", "6.12-64k")
        for machine in ("pseries", "powernv9")
    }
    assert "0x901" in seen["6.12-4k", "pseries"]
    assert "0x90 " not in seen["6.12-64k", "pseries"]
    assert seen["6.12-4k", "pseries"] != seen["6.12-4k", "powernv9"]


def test_a_side_that_there_is_not_is_refused(cli: Cli) -> None:
    outcome = cli("diff", "--on", "paper")
    assert outcome.status == 2
    assert outcome.error == "nestscope: --on is one of model, kernel, both, not 'paper'\n"


def test_nothing_is_injected_where_nothing_is_compared(cli: Cli) -> None:
    assert cli("diff", "--on", "model", "--inject", "3").status == 2


@pytest.mark.kernel
def test_a_kernel_alone_shows_what_both_would(cli: Cli, lab: Lab, tmp_path: Path) -> None:
    outcome = cli("diff", "--on", "kernel", "--audit", "--save", tmp_path, ZERO_ENTRY)
    assert outcome.status == 1
    assert "kernel's State at step 5 breaks an invariant" in outcome.output
    assert {each.suffix for each in tmp_path.iterdir()} == {".trace", ".xz"}
