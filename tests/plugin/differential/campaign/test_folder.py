"""A campaign's folder: what it knows is on the disk, and a later run knows it again."""

from pathlib import Path

from nestscope.plugin.differential.campaign.folder import CampaignFolder, finding_name
from nestscope.plugin.differential.campaign.tasks import (
    ProgramResult,
    RunTask,
    ShrunkFinding,
    Target,
)
from nestscope.plugin.differential.campaign.trouble import Trouble
from nestscope.sim.operations import Drop, Load, Map
from nestscope.sim.trace import parse

TARGET = Target("6.12-64k", "pseries")
OTHER = Target("6.1-64k", "powernv9")
PROGRAM = (Map(1, 0x10000, 0x900000, 16, 0x187), Load(1, 0x10000), Drop(1))
TROUBLE = Trouble("difference", "difference vms.lpid: N", "vms.lpid: expected 1, observed 2")


def run(name: str = "seed1x3", target: Target = TARGET) -> RunTask:
    return RunTask(target, name, PROGRAM)


def result(trouble: Trouble | None = None, blocks: frozenset[int] = frozenset()) -> ProgramResult:
    return ProgramResult(
        steps=3,
        seconds=0.5,
        executed=PROGRAM,
        trouble=trouble,
        known={"0001": 2},
        blocks=blocks,
        compared=(10, 20, 30),
    )


def shrunk() -> ShrunkFinding:
    return ShrunkFinding(TROUBLE, PROGRAM[:2], 7, 1.5, True, "6.12.107", {"console.log": b"ok\n"})


def test_a_later_run_knows_what_an_earlier_one_did(tmp_path: Path) -> None:
    folder = CampaignFolder.open(tmp_path)
    folder.take(run("seed1x3"), result(blocks=frozenset({5, 6})))
    folder.take(run("seed2x3"), result(TROUBLE))
    folder.take(run("seed1x3", OTHER), result())
    folder.close()
    again = CampaignFolder.open(tmp_path)
    assert again.done == {(TARGET, "seed1x3"), (TARGET, "seed2x3"), (OTHER, "seed1x3")}
    assert again.totals == folder.totals
    assert (again.totals[TARGET].programs, again.totals[TARGET].steps) == (2, 6)
    assert again.totals[TARGET].leaves == 60
    assert again.known == {"0001": 6}
    assert again.blocks == {5, 6}
    assert again.corpus == {"seed1x3": PROGRAM}
    assert again.findings == folder.findings
    again.close()


def test_a_trouble_is_a_finding_once_for_all_targets(tmp_path: Path) -> None:
    folder = CampaignFolder.open(tmp_path)
    first = folder.take(run("seed1x3"), result(TROUBLE))
    assert folder.take(run("seed2x3"), result(TROUBLE)) is None
    assert folder.take(run("seed1x3", OTHER), result(TROUBLE)) is None
    assert first is not None
    assert (first.count, first.target) == (3, TARGET)
    folder.close()


def test_a_finding_that_was_not_shrunk_is_shrunk_by_the_next_run(tmp_path: Path) -> None:
    folder = CampaignFolder.open(tmp_path)
    folder.take(run(), result(TROUBLE))
    folder.close()
    again = CampaignFolder.open(tmp_path)
    (task,) = again.to_shrink()
    assert (task.target, task.signature, task.operations) == (TARGET, TROUBLE.signature, PROGRAM)
    again.keep_shrunk(again.findings[TROUBLE.signature], shrunk())
    assert again.to_shrink() == []
    again.close()
    last = CampaignFolder.open(tmp_path)
    assert last.to_shrink() == []
    assert last.findings[TROUBLE.signature].length == 2
    last.close()


def test_a_findings_folder_has_all_that_a_developer_needs(tmp_path: Path) -> None:
    folder = CampaignFolder.open(tmp_path)
    finding = folder.take(run(), result(TROUBLE))
    assert finding is not None
    folder.keep_shrunk(finding, shrunk())
    folder.close()
    where = tmp_path / "findings" / finding_name(TROUBLE.signature)
    assert {each.name for each in where.iterdir()} == {
        "original.trace",
        "trace",
        "account.md",
        "console.log",
    }
    assert tuple(parse((where / "original.trace").read_text())) == PROGRAM
    assert tuple(parse((where / "trace").read_text())) == PROGRAM[:2]
    account = (where / "account.md").read_text()
    for said in ("6.12.107", "`pseries`", "expected 1, observed 2", "nestscope diff", "load 1"):
        assert said in account


def test_a_group_that_shrank_to_another_finding_is_the_same(tmp_path: Path) -> None:
    group = Trouble("difference", "d rmap: entry missing, after together access and fork", "seen")
    single = Trouble("difference", "d rmap: entry missing, after access", "seen")
    folder = CampaignFolder.open(tmp_path)
    for trouble in (group, single):
        finding = folder.take(run(), result(trouble))
        assert finding is not None
        folder.keep_shrunk(finding, ShrunkFinding(single, PROGRAM[:2], 7, 1.5, True, "6.12", {}))
    folder.take(run("seed9x3", OTHER), result(single))
    folder.close()
    again = CampaignFolder.open(tmp_path)
    assert again.findings == folder.findings
    assert again.same_as(again.findings[group.signature]) == single.signature
    assert again.same_as(again.findings[single.signature]) is None
    assert again.findings[single.signature].targets == {TARGET, OTHER}
    again.close()


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = CampaignFolder.open(tmp_path)
    folder.take(run(), result(TROUBLE))
    folder.close()
    half = tmp_path / "findings" / finding_name(TROUBLE.signature) / ".account.md.new"
    half.write_text("# hal")
    CampaignFolder.open(tmp_path).close()
    assert not half.exists()


def test_a_program_in_trouble_does_not_join_the_corpus(tmp_path: Path) -> None:
    folder = CampaignFolder.open(tmp_path)
    folder.take(run(), result(TROUBLE, frozenset({1})))
    folder.close()
    again = CampaignFolder.open(tmp_path)
    assert again.corpus == {}
    assert again.blocks == {1}
    again.close()
