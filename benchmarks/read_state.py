"""Reading the State of guests of 1 GiB to 1 TiB: seconds, memory, growth, bandwidth, Construct.

The guests are synthetic (`nestscope.sim.image`) and alike but for their size: pages of
64 KiB, every gfn with a host leaf, one rmap entry for 16.8 gfns in chains of up to 64, a
shadow leaf for each entry, 32 nested guests; tables, list nodes and vmalloc pages lie in
random order. Each image is a sparse file of RAM, read by a fresh process that is held on
one processor. The quickest read counts, and the quickest copy; seconds of the processor
are told too, because other programs disturb them less.

An *item* is a word of the rmap array, a leaf, or an rmap entry. A State has a cost that no
guest is too small for: root tables of 64 KiB for 33 trees, and a step for each node of the
longest chain. So time an item falls with the size; what must be flat is the time of each
further item, which is told beside it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import construct_path
from benchmarks.construct_path import Sample
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.read_state import StateReader
from nestscope.decoders.rmap_words import read_words
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import State
from nestscope.sim.image.build import build_image
from nestscope.sim.image.kernel import ImageKernel
from nestscope.sim.image.profiles import profile_types
from nestscope.sim.image.synthetic import synthetic_state

PROFILE = "6.12-like"
NESTED = 32
LARGE_GIB = 1024
SIZES_GIB = (1, 4, 16, 64, 256, LARGE_GIB)
SAMPLE = Sample(gfns=1 << 15, nested=2)
READ_SECONDS = 1.0
ROUNDS = 3
MIN_READS = 5


class Point(NamedTuple):
    """One size: items of its State, and the seconds of the processor that they took."""

    gib: int
    items: int
    seconds: float


def run() -> None:
    """Print the figures of issue 4: a, b and e of its benchmarks."""
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        images = {}
        for gib in SIZES_GIB:
            path = Path(folder) / f"{gib}.raw"
            facts, seconds = _build(gib, path)
            images[gib] = facts, path, f"laid out in {seconds:.2f} s"
        # In turns, so that a busy minute of the machine does not fall on one size.
        rounds = [
            {
                gib: _in_a_process(facts, path, construct=not turn)
                for gib, (facts, path, _) in images.items()
            }
            for turn in range(ROUNDS)
        ]
        for gib, (_, path, image) in images.items():
            told = rounds[0][gib]
            for name in ("seconds", "processor", "scan", "memcpy"):
                told[name] = min(turn[gib][name] for turn in rounds)
            points.append(Point(gib, told["items"], told["processor"]))
            _print_size(gib, told, f"{image}, {path.stat().st_blocks >> 11} MiB")
    _print_growth(points)


def _print_size(gib: int, told: dict[str, Any], image: str) -> None:
    per_item = told["processor"] / told["items"]
    print(
        f"{gib} GiB ({image}): {told['items']} items read in {told['seconds'] * 1e3:.1f} ms, "
        f"{told['processor'] * 1e3:.1f} ms of the processor, with {told['peak_mib']} MiB of RSS; "
        f"{per_item * 1e9:.1f} ns an item"
    )
    if gib == LARGE_GIB:
        print(
            f"    rmap array of {told['array_mib']} MiB scanned in {told['scan'] * 1e3:.1f} ms of "
            "the processor: "
            f"{told['memcpy'] / told['scan']:.0%} of memcpy's bandwidth "
            f"({told['memcpy'] * 1e3:.1f} ms)"
        )
    seconds, items = told["construct"]
    by_construct = seconds / items
    print(
        f"    through Construct, {items} items of it (gfns below "
        f"{SAMPLE.gfns}, {SAMPLE.nested} nested guests): {by_construct * 1e9:.0f} ns an item; "
        f"Construct / bulk: {by_construct / per_item:.0f}"
    )


def _print_growth(points: list[Point]) -> None:
    """Print what each further item costs, from one size to the next, and what is left."""
    first, last = points[0], points[-1]
    slopes = [
        (one.gib, two.gib, (two.seconds - one.seconds) / (two.items - one.items))
        for one, two in pairwise(points)
    ]
    for one, two, slope in slopes:
        print(f"each further item from {one} to {two} GiB: {slope * 1e9:.1f} ns")
    slope = (last.seconds - first.seconds) / (last.items - first.items)
    fixed = first.seconds - slope * first.items
    print(
        f"from {first.gib} to {last.gib} GiB: {fixed * 1e3:.1f} ms + {slope * 1e9:.2f} ns an item"
    )
    for point in points:
        told = point.seconds / (fixed + slope * point.items)
        total = point.seconds / point.items / (last.seconds / last.items)
        print(
            f"    {point.gib} GiB: measured / this line {told:.2f}; time an item, all costs "
            f"included, is {total:.2f} of that at {last.gib} GiB"
        )


def _build(gib: int, path: Path) -> tuple[ImageKernel, float]:
    gfns = gib << 14
    state = synthetic_state(gfns=gfns, entries=gfns * 1_000_000 // (1 << 24), nested=NESTED)
    started = time.perf_counter()
    image = build_image(state, profile_types(PROFILE), seed=1)
    seconds = time.perf_counter() - started
    image.memory.write_raw(path)
    return image.facts, seconds


def _in_a_process(facts: ImageKernel, path: Path, *, construct: bool) -> dict[str, Any]:
    """Measure in a process of its own, so that its memory is that of reading alone."""
    arguments = json.dumps(asdict(facts) | {"path": str(path), "construct": construct})
    command = [sys.executable, "-m", __name__, arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600)
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def _measure(path: str, *, construct: bool, **facts: Any) -> dict[str, Any]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    memory, source = open_source(path)
    with memory:
        kernel = ImageKernel(**facts).open(memory, profile_types(PROFILE))
        reader = StateReader(kernel, source)
        state = reader.read()
        if state.problems:
            raise SystemExit(str(state.problems[0]))
        slot = state.vms[0].memslots[0]
        items = slot.npages + _leaves(state) + len(slot.rmap.entries)
        peak = _peak_mib()
        by_construct = _construct_seconds(kernel, state) if construct else (0.0, 0)
        array = slot.rmap_array or 0
        del state
        seconds, processor = _quickest(reader.read)
        return {
            "items": items,
            "peak_mib": peak,
            "seconds": seconds,
            "processor": processor,
            "scan": _quickest(lambda: _scan(kernel, array, slot.npages))[1],
            "memcpy": _memcpy_seconds(kernel, array, 8 * slot.npages),
            "array_mib": slot.npages >> 17,
            "construct": by_construct,
        }


def _quickest(action: Any) -> tuple[float, float]:
    """Return the seconds of the quickest run, those that passed and those of the processor.

    Small guests are read more often: other programs disturb a short time more.
    """
    wall: list[float] = []
    processor: list[float] = []
    begun = time.perf_counter()
    while len(wall) < MIN_READS or time.perf_counter() - begun < READ_SECONDS:
        started, used = time.perf_counter(), time.process_time()
        action()
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return min(wall), min(processor)


def _leaves(state: State) -> int:
    vm = state.vms[0]
    return len(vm.host_leaves) + sum(len(guest.leaves) for guest in vm.nested)


def _peak_mib() -> int:
    """Return the peak of this process's resident memory, file pages included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise SystemExit("this system does not tell a process's peak memory (VmHWM)")


def _scan(kernel: Kernel, array: int, npages: int) -> None:
    kernel.memory.forget()
    _, _, problems = read_words(kernel.memory, array, npages, 0, kernel.byteorder, path="rmap")
    if problems:
        raise SystemExit(str(problems[0]))


def _memcpy_seconds(kernel: Kernel, array: int, length: int) -> float:
    """Return how long one copy of the array takes, from memory to memory that is warm."""
    source = np.frombuffer(kernel.memory.read(array, length), np.uint8)
    target = np.ones(length, np.uint8)
    return _quickest(lambda: np.copyto(target, source))[1]


def _construct_seconds(kernel: Kernel, bulk: State) -> tuple[float, int]:
    """Read a part through the Construct definitions, and check that it is the same.

    Returns seconds of the processor, and items. Word by word, the time grows with the
    words and nothing else, so a part of a large guest tells it.
    """
    vm = bulk.vms[0]
    used = time.process_time()
    rows = construct_path.read(kernel, vm, SAMPLE)
    seconds = time.process_time() - used
    if rows != construct_path.rows_of(vm, SAMPLE, kernel.page_shift or 0):
        raise SystemExit("the bulk path and the Construct path read different States")
    return seconds, construct_path.items(rows, min(vm.memslots[0].npages, SAMPLE.gfns))


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
