"""Campaigns: compared steps and programs a second for each kernel, and what a second job adds.

Programs of the calm profile, of which none waits for a nested guest that has no end.
Booting is not counted for one job; two jobs are compared with one over the same programs,
from the first result to the last, so that neither counts a boot.
"""

import statistics
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from nestscope.plugin.differential.campaign.campaign import Campaign, Limits
from nestscope.plugin.differential.campaign.folder import CampaignFolder
from nestscope.plugin.differential.campaign.pool import LocalPool
from nestscope.plugin.differential.campaign.program import run_program
from nestscope.plugin.differential.campaign.programs import Programs
from nestscope.plugin.differential.campaign.station import Station
from nestscope.plugin.differential.campaign.tasks import Options, Target
from nestscope.plugin.qemu.kernels import FLAVOURS

MACHINES = ("pseries", "powernv9")
SEEDS = tuple(range(1, 9))
STEPS = 200
RESETS = 20


def run() -> None:
    """Print rates, resets, and the scaling."""
    for kernel in FLAVOURS:
        for machine in MACHINES:
            _rates(Target(kernel, machine))
    one, two = (_jobs(jobs) for jobs in (1, 2))
    print(f"one job: {one:.0f} steps/s; two jobs: {two:.0f} steps/s, {two / one:.2f} times")


def _rates(target: Target) -> None:
    with Station(target, Options()) as station:
        tasks = Programs(SEEDS, STEPS).of(target, {})
        results = [run_program(station, next(tasks).operations) for _ in SEEDS]
        resets = sorted(_reset(station) for _ in range(RESETS))
    rates = sorted(result.steps / result.seconds for result in results)
    programs = len(results) / sum(result.seconds for result in results)
    if any(result.trouble for result in results):
        raise SystemExit(f"{target}: {next(r.trouble for r in results if r.trouble)}")
    print(
        f"{target}: {statistics.median(rates):.0f} compared steps/s "
        f"({rates[0]:.0f} to {rates[-1]:.0f}), {programs:.2f} programs/s of {STEPS} steps; "
        f"a reset takes {resets[len(resets) // 2] * 1000:.0f} ms ({resets[-1] * 1000:.0f} at most)"
    )


def _reset(station: Station) -> float:
    """Return the seconds from one VM to the next, clean one."""
    started = time.perf_counter()
    station.fresh()
    return time.perf_counter() - started


def _jobs(jobs: int) -> float:
    """Return compared steps a second of a campaign with so many lab machines."""
    target = Target(next(iter(FLAVOURS)), "pseries")
    ends: list[tuple[float, int]] = []

    def watch(campaign: Campaign) -> None:
        steps = sum(each.steps for each in campaign.folder.totals.values())
        if not ends or ends[-1][1] != steps:
            ends.append((time.perf_counter(), steps))

    with (
        TemporaryDirectory(prefix="nestscope-bench-") as path,
        closing(CampaignFolder.open(Path(path))) as folder,
        closing(LocalPool(jobs, Options())) as pool,
    ):
        programs = Programs(range(1, 33), STEPS)
        Campaign(folder, pool, (target,), programs, Limits(programs=32), watch).run()
    # Until every job has booted nothing is counted.
    first, last = ends[2 * jobs], ends[-1]
    return (last[1] - first[1]) / (last[0] - first[0])
