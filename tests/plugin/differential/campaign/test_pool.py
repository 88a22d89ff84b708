"""Jobs as processes: one that ends, or does not come back, is replaced, and its task is lost."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from nestscope.plugin.differential.campaign import pool as pools
from nestscope.plugin.differential.campaign.pool import LocalPool
from nestscope.plugin.differential.campaign.tasks import (
    Failed,
    Options,
    RunTask,
    ShrinkTask,
    Target,
    Task,
    TaskResult,
    longest_seconds,
)
from nestscope.sim.operations import Load

NOWHERE = Target("no-such-kernel", "pseries")
PROGRAM = tuple(Load(1, 0) for _ in range(100))
RUN = RunTask(NOWHERE, "calm1x100", PROGRAM)


def results(pool: LocalPool, seconds: float = 60.0) -> list[tuple[str, TaskResult]]:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if ended := pool.wait(0.2):
            return ended
    raise AssertionError(f"nothing within {seconds} s")


def stop(pool: LocalPool) -> None:
    for pid in pool.pids():
        os.kill(pid, signal.SIGSTOP)


def kill(pool: LocalPool) -> None:
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("hurt", "says"), [(stop, "stuck"), (kill, "ended")])
def test_a_job_that_gives_no_answer_is_replaced(
    monkeypatch: pytest.MonkeyPatch, hurt: Callable[[LocalPool], None], says: str
) -> None:
    def soon(_task: Task, _options: Options) -> float:
        return 2.0

    monkeypatch.setattr(pools, "longest_seconds", soon)
    with closing(LocalPool(1, Options())) as pool:
        (before,) = pool.pids()
        hurt(pool)
        pool.submit("job 1", RUN)
        ((slot, result),) = results(pool)
        assert (slot, pool.slots) == ("job 1", ["job 1"])
        assert isinstance(result, Failed)
        assert result.kind == "lost"
        assert says in result.why
        (after,) = pool.pids()
        assert after != before
        # The new one works: there is no such kernel, and it says so.
        monkeypatch.undo()
        pool.submit("job 1", RUN)
        ((_, result),) = results(pool)
        assert isinstance(result, Failed)
        assert result.kind == "impossible"
        assert "no-such-kernel" in result.why


def test_a_task_has_time_for_its_operations_and_an_end() -> None:
    shrink = ShrinkTask(NOWHERE, "died", PROGRAM)
    short = RunTask(NOWHERE, "calm1x1", PROGRAM[:1])
    run = longest_seconds(RUN, Options())
    # A nested guest that finds no end takes a second, a boot on a busy machine half a minute.
    assert 60 < longest_seconds(short, Options()) < run < 3600
    assert run > 2 * len(PROGRAM)
    assert longest_seconds(shrink, Options()) > run + Options().shrink_seconds
