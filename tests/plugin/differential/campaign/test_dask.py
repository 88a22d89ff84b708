"""Campaigns on a Dask cluster: the workers run the lab machines, and end them."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.campaign import Campaign, Limits
from nestscope.plugin.differential.campaign.dask_pool import DaskPool
from nestscope.plugin.differential.campaign.folder import CampaignFolder
from nestscope.plugin.differential.campaign.programs import Programs
from nestscope.plugin.differential.campaign.tasks import Options, Target
from nestscope.plugin.qemu.kernel_files import KernelFiles
from tests.plugin.differential.campaign.test_robust import descendants

distributed = pytest.importorskip("distributed")


@pytest.fixture
def scheduler() -> Iterator[str]:
    """A cluster of two worker processes of this machine."""
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster:
        yield cluster.scheduler_address


def machines() -> int:
    return sum(name.startswith("qemu") for name in descendants(os.getpid()).values())


@pytest.mark.kernel
def test_a_campaign_spreads_over_the_workers(
    kernel_files: KernelFiles, tmp_path: Path, scheduler: str
) -> None:
    target = Target(kernel_files.name, "pseries")
    before = machines()
    at_once = 0

    def watch(_: Campaign) -> None:
        nonlocal at_once
        at_once = max(at_once, machines() - before)

    with closing(CampaignFolder.open(tmp_path)) as folder:
        with closing(DaskPool(scheduler, 1, Options())) as pool:
            assert len(pool.slots) == 2
            Campaign(
                folder, pool, (target,), Programs((1, 2, 3), 40), Limits(programs=3), watch
            ).run()
            assert at_once == 2
        assert {name for _, name in folder.done} == {f"calm{seed}x40" for seed in (1, 2, 3)}
        assert folder.totals[target].steps == 120
        assert folder.findings == {}
    assert machines() == before


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    with pytest.raises(NestscopeError, match="no Dask scheduler answers at"):
        DaskPool("tcp://127.0.0.1:9", 1, Options())


def test_a_scheduler_that_goes_away_ends_the_campaign_in_one_sentence() -> None:
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with closing(DaskPool(cluster.scheduler_address, 1, Options())) as pool:
        assert len(pool.slots) == 1
        cluster.close()
        limit = time.monotonic() + 60.0
        with pytest.raises(NestscopeError, match="does not answer any more: start the cluster"):
            while time.monotonic() < limit:
                assert isinstance(pool.slots, list)
                time.sleep(0.1)
