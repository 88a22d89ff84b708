"""Compared steps a second against a live kernel, for each way to read its memory.

One step is one operation, executed on both sides, with the whole State read and
compared. Booting is not counted.
"""

import time
from itertools import islice

from nestscope.plugin.differential.session import Via, open_comparison
from nestscope.plugin.qemu.kernels import fetch_kernel
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

STEPS = {Via.RAM: 500, Via.MI: 100, Via.MI_PACKETS: 50}
SEEDS = (1, 2, 3)


def run() -> None:
    """Print the rate of each way for several seeds, and the ratio of the medians."""
    medians = {}
    with Lab.boot(fetch_kernel()) as lab:
        for via, steps in STEPS.items():
            rates = sorted(_rate(lab, via, seed, steps) for seed in SEEDS)
            medians[via] = rates[len(rates) // 2]
            shown = ", ".join(f"{rate:.0f}" for rate in rates)
            print(f"via {via}: {shown} compared steps/s ({steps} steps, seeds {SEEDS})")
    for via in (Via.MI, Via.MI_PACKETS):
        print(f"ram / {via}: {medians[Via.RAM] / medians[via]:.1f}")


def _rate(lab: Lab, via: Via, seed: int, steps: int) -> float:
    with open_comparison(lab, via) as live:
        started = time.perf_counter()
        for operation in islice(random_operations(seed, LAYOUT), steps):
            step = live.comparison.step(operation)
            if step.differences:
                raise SystemExit(f"seed {seed}, step {step.number}: {step.differences[0]}")
        seconds = time.perf_counter() - started
    lab.agent.must(["destroy"])
    return steps / seconds
