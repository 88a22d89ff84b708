"""The campaign over machines that are made up: order, limits, retries, resumption."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.campaign import Campaign, Limits
from nestscope.plugin.differential.campaign.folder import CampaignFolder
from nestscope.plugin.differential.campaign.programs import Programs
from nestscope.plugin.differential.campaign.tasks import (
    Failed,
    ProgramResult,
    RunTask,
    ShrinkTask,
    Target,
    Task,
    TaskResult,
)
from tests.plugin.differential.campaign.fake_pool import FakePool, clean, in_trouble, lost

ONE = Target("6.12-64k", "pseries")
TWO = Target("6.1-64k", "powernv9")
SEEDS = (1, 2, 3)
ALL = Limits(programs=3)


def answer(_slot: str, task: Task) -> TaskResult:
    return clean(task)


def campaign(
    folder: CampaignFolder,
    pool: FakePool,
    limits: Limits = ALL,
    targets: tuple[Target, ...] = (ONE,),
) -> Campaign:
    return Campaign(folder, pool, targets, Programs(SEEDS, 10), limits)


@contextmanager
def opened(path: Path) -> Iterator[CampaignFolder]:
    folder = CampaignFolder.open(path)
    try:
        yield folder
    finally:
        folder.close()


def test_every_seed_runs_on_every_target(tmp_path: Path) -> None:
    pool = FakePool(1, answer)
    with opened(tmp_path) as folder:
        campaign(folder, pool, targets=(ONE, TWO)).run()
        assert folder.done == {
            (target, f"calm{seed}x10") for target in (ONE, TWO) for seed in SEEDS
        }
        assert {target: each.steps for target, each in folder.totals.items()} == {ONE: 30, TWO: 30}


def test_a_job_stays_with_its_target_and_jobs_spread(tmp_path: Path) -> None:
    pool = FakePool(2, answer)
    with opened(tmp_path) as folder:
        campaign(folder, pool, targets=(ONE, TWO)).run()
    of_first = [task.target for slot, task in pool.asked if slot == "job 1"]
    of_second = [task.target for slot, task in pool.asked if slot == "job 2"]
    assert (set(of_first), set(of_second)) == ({ONE}, {TWO})


def test_a_second_run_does_what_the_first_left(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        campaign(folder, FakePool(1, answer), Limits(programs=2)).run()
    pool = FakePool(1, answer)
    with opened(tmp_path) as folder:
        campaign(folder, pool).run()
    assert pool.programs() == ["calm3x10"]


def test_a_run_that_is_complete_begins_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        campaign(folder, FakePool(1, answer)).run()
    pool = FakePool(1, answer)
    with opened(tmp_path) as folder:
        campaign(folder, pool).run()
    assert pool.asked == []


def test_a_new_trouble_is_shrunk_at_once_and_only_once(tmp_path: Path) -> None:
    def answers(_slot: str, task: Task) -> TaskResult:
        return in_trouble(task) if isinstance(task, RunTask) else clean(task)

    pool = FakePool(1, answers)
    with opened(tmp_path) as folder:
        campaign(folder, pool).run()
        (finding,) = folder.findings.values()
        assert (finding.count, finding.shrunk, finding.length) == (3, True, 2)
    kinds = [type(task) for _, task in pool.asked]
    assert kinds == [RunTask, ShrinkTask, RunTask, RunTask]


def test_first_ends_after_the_first_finding(tmp_path: Path) -> None:
    def answers(_slot: str, task: Task) -> TaskResult:
        return in_trouble(task) if isinstance(task, RunTask) else clean(task)

    pool = FakePool(1, answers)
    with opened(tmp_path) as folder:
        campaign(folder, pool, Limits(seconds=60.0, first=True)).run()
        assert [finding.shrunk for finding in folder.findings.values()] == [True]
    assert len(pool.programs()) == 1


def test_a_lost_task_is_tried_again(tmp_path: Path) -> None:
    tries: list[str] = []

    def answers(slot: str, task: Task) -> TaskResult:
        assert isinstance(task, RunTask)
        tries.append(task.name)
        return lost(slot, task) if len(tries) == 2 else clean(task)

    with opened(tmp_path) as folder:
        campaign(folder, FakePool(1, answers)).run()
        assert len(folder.done) == 3
    assert sorted(tries) == ["calm1x10", "calm2x10", "calm2x10", "calm3x10"]


def test_what_is_lost_again_and_again_ends_the_campaign(tmp_path: Path) -> None:
    pool = FakePool(1, lost)
    with opened(tmp_path) as folder, pytest.raises(NestscopeError, match="after 3 tries"):
        campaign(folder, pool).run()
    assert pool.programs() == ["calm1x10"] * 3


def test_a_program_that_ends_every_job_is_a_finding_and_the_campaign_goes_on(
    tmp_path: Path,
) -> None:
    def answers(slot: str, task: Task) -> TaskResult:
        stuck = isinstance(task, ShrinkTask) or task.name == "calm2x10"
        return lost(slot, task) if stuck else clean(task)

    pool = FakePool(1, answers)
    with opened(tmp_path) as folder:
        campaign(folder, pool).run()
        assert len(folder.done) == 3
        (finding,) = folder.findings.values()
        assert finding.signature.startswith("died ")
        assert finding.shrunk
    account = (tmp_path / "findings" / finding.name / "account.md").read_text()
    assert "did not show again" in account
    assert pool.programs().count("calm2x10") == 3


def test_what_cannot_be_done_ends_the_campaign(tmp_path: Path) -> None:
    def answers(_slot: str, _task: Task) -> TaskResult:
        return Failed("there is no qemu", "impossible")

    with opened(tmp_path) as folder, pytest.raises(NestscopeError, match="there is no qemu"):
        campaign(folder, FakePool(1, answers)).run()


def test_a_time_limit_is_shared_by_the_targets(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        campaign(folder, FakePool(1, answer), Limits(seconds=0.4), (ONE, TWO)).run()
        assert set(folder.totals) == {ONE, TWO}


def test_stop_begins_nothing_more(tmp_path: Path) -> None:
    pool = FakePool(1, answer)
    with opened(tmp_path) as folder:
        running = campaign(folder, pool)
        running.watch = lambda each: each.stop()
        running.run()
        assert len(folder.done) == 1


def test_mutants_come_from_the_corpus_after_every_seed_had_its_turn(tmp_path: Path) -> None:
    def answers(_slot: str, task: Task) -> TaskResult:
        assert isinstance(task, RunTask)
        reached = frozenset({hash(task.name)})
        return ProgramResult(10, 0.5, task.operations, blocks=reached)

    pool = FakePool(1, answers)
    with opened(tmp_path) as folder:
        campaign(folder, pool, Limits(programs=30)).run()
    names = pool.programs()
    assert names[:3] == [f"calm{seed}x10" for seed in SEEDS]
    assert {name.rstrip("0123456789x") for name in names[3:]} == {"calm", "varied-calm", "mutant"}


class TestFullDisk:
    """What was there before stays whole, and the campaign says what to do."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        """A folder on a small file system, or else with a limit on the size of files."""
        mounted = (
            os.geteuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)],
                capture_output=True,
                check=False,
            ).returncode
        )
        if mounted:
            yield tmp_path
            subprocess.run(["umount", str(tmp_path)], check=True)
            return
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_the_campaign_ends_and_can_go_on(self, small: Path) -> None:
        def answers(_slot: str, task: Task) -> TaskResult:
            if isinstance(task, RunTask) and task.name == "calm2x10":
                return in_trouble(task)
            return clean(task)

        with opened(small) as folder, pytest.raises(NestscopeError, match="make room"):
            campaign(folder, FakePool(1, answers), Limits(seconds=60.0)).run()
        with opened(small) as folder:
            assert (ONE, "calm1x10") in folder.done
            (finding,) = folder.findings.values()
            assert folder.shrink_task(finding).operations
            assert folder.totals[ONE].programs == len(folder.done)
        assert not list(small.glob("findings/*/.*"))
