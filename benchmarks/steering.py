"""Steering: do programs reach more of the kernel when its blocks choose the corpus?

The same seeds in three campaigns that differ only in which programs are kept and varied: none,
those with new effects (`--coverage steps`), those with new basic blocks of kvm-hv as well
(`--coverage kernel`). Printed: blocks of the nested and radix functions that ran so far.
"""

from collections.abc import Iterator

from nestscope.plugin.differential.campaign.program import run_program
from nestscope.plugin.differential.campaign.programs import PROFILES, Programs
from nestscope.plugin.differential.campaign.station import KERNEL_COVERAGE, Station
from nestscope.plugin.differential.campaign.tasks import Options, Target
from nestscope.plugin.qemu.kernels import DEFAULT_KERNEL
from nestscope.sim.operations import Operation

SEEDS = 4
STEPS = 80
SHOWN = (4, 10, 20, 40, 60)
BASES = (1, 1001)
MODES = ("none", "steps", "kernel")
_EFFECTS = 1 << 32
"""Numbers below stand for effects of operations, those above for blocks of the kernel."""


def run() -> None:
    """Print how many blocks ran after so many programs, for each way to steer."""
    target = Target(DEFAULT_KERNEL, "pseries")
    print(f"{target}: blocks after {', '.join(map(str, SHOWN))} programs of {STEPS} operations")
    for base in BASES:
        for mode in MODES:
            reached = dict(_campaign(target, base, mode))
            figures = "  ".join(f"{reached[number]:5}" for number in SHOWN)
            print(f"seeds {base} to {base + SEEDS - 1}, steered by {mode:6}: {figures}", flush=True)


def _campaign(target: Target, base: int, mode: str) -> Iterator[tuple[int, int]]:
    """Yield how many programs ran, and how many blocks by then."""
    corpus: dict[str, tuple[Operation, ...]] = {}
    ran: set[int] = set()
    seen: set[int] = set()
    tasks = Programs(range(base, base + SEEDS), STEPS, tuple(PROFILES)).of(target, corpus)
    with Station(target, Options(coverage=KERNEL_COVERAGE)) as station:
        for number in range(1, SHOWN[-1] + 1):
            task = next(tasks)
            result = run_program(station, task.operations)
            chosen = {each for each in result.blocks if mode == "kernel" or each < _EFFECTS}
            if mode != "none" and result.trouble is None and chosen - seen:
                corpus[task.name] = result.executed
            seen |= result.blocks
            ran |= {each for each in result.blocks if each >= _EFFECTS}
            yield number, len(ran)
