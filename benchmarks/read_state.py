"""Reading the State of a guest of 1 TiB: seconds, memory, bandwidth, bulk against Construct.

The guests are synthetic (`nestscope.sim.image`): pages of 64 KiB, every gfn with
a host leaf, one rmap entry for 16.8 gfns in chains of up to 64, and a shadow leaf
for each; tables, list nodes and vmalloc pages lie in random order. Each image is
a sparse file of RAM, read by a fresh process that is held on one processor. The
quickest of five reads counts, and the quickest of five copies.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import construct_path
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
SIZES_GIB = (1, 16, 64, LARGE_GIB)
CONSTRUCT_GIB = 16
READS = 5


def run() -> None:
    """Print the figures of issue 4: a, b and e of its benchmarks."""
    times = {}
    by_construct = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for gib in SIZES_GIB:
            path = Path(folder) / f"{gib}.raw"
            facts, seconds = _build(gib, path)
            print(f"{gib} GiB: laid out in {seconds:.2f} s, {path.stat().st_blocks >> 11} MiB")
            told = _in_a_process(facts, path, construct=gib == CONSTRUCT_GIB)
            times[gib] = told["seconds"] / told["entries"]
            print(
                f"{gib} GiB: State of {told['entries']} words and leaves read in "
                f"{told['seconds']:.3f} s with {told['peak_mib']} MiB of RSS, "
                f"{times[gib] * 1e9:.1f} ns an entry"
            )
            if gib == LARGE_GIB:
                share = told["memcpy"] / told["scan"]
                print(
                    f"    rmap array of {told['array_mib']} MiB scanned in "
                    f"{told['scan'] * 1e3:.1f} ms: {share:.0%} of memcpy's bandwidth "
                    f"({told['memcpy'] * 1e3:.1f} ms)"
                )
            if told["construct"]:
                by_construct = told["construct"] / told["entries"]
                print(
                    f"    the same word by word through Construct: {told['construct']:.2f} s, "
                    f"{by_construct * 1e9:.0f} ns an entry; "
                    f"Construct / bulk: {by_construct / times[gib]:.0f}"
                )
            path.unlink()
    # Word by word, the time grows with the words and nothing else, so a small guest tells it.
    ratio = by_construct / times[LARGE_GIB]
    print(f"Construct of {CONSTRUCT_GIB} GiB / bulk of {LARGE_GIB} GiB, an entry: {ratio:.0f}")
    for gib in SIZES_GIB[:-1]:
        growth = times[LARGE_GIB] / times[gib]
        print(f"time an entry, {LARGE_GIB} GiB / {gib} GiB: {growth:.2f}")


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
        entries = slot.npages + _leaves(state) + len(slot.rmap.entries)
        peak = _peak_mib()
        by_construct = _construct_seconds(kernel, state) if construct else 0.0
        array = slot.rmap_array or 0
        del state
        return {
            "entries": entries,
            "peak_mib": peak,
            "seconds": _quickest(reader.read),
            "scan": _quickest(lambda: _scan(kernel, array, slot.npages)),
            "memcpy": _memcpy_seconds(kernel, array, 8 * slot.npages),
            "array_mib": slot.npages >> 17,
            "construct": by_construct,
        }


def _quickest(action: Any) -> float:
    """Return the seconds of the quickest run: the one that other programs disturbed least."""
    seconds = []
    for _ in range(READS):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


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
    return _quickest(lambda: np.copyto(target, source))


def _construct_seconds(kernel: Kernel, bulk: State) -> float:
    """Read the same through the Construct definitions, and check that it is the same."""
    # It runs once only, so time that other programs take must not count.
    started = time.process_time()
    rows = construct_path.read(kernel, bulk.vms[0])
    seconds = time.process_time() - started
    if rows != construct_path.rows_of(bulk):
        raise SystemExit("the bulk path and the Construct path read different States")
    return seconds


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
