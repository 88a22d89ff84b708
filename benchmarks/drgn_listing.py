"""All leaves and rmap entries of one image: nestscope, and a plain script for drgn.

Both open the same raw image of RAM, and both read it to the end: the time is that
of opening and reading. drgn reads it through a memory segment with a callback over
a mapping, because that was quicker for it than an ELF core, which it reads with a
system call each time (whole tables of a 64 GiB guest: 0.37 s instead of 0.41 s;
word by word: 1.2 s instead of 2.2 s). The script is told where the trees and the
array are; nestscope follows the kernel's structures to them. Each figure is the
quickest of three runs, the file being in memory. Processor time is less disturbed
by other programs.

The target is for the script that reads whole tables, as a good user of drgn does.
"""

import gc
import tempfile
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.vms import VmReader
from nestscope.decoders.read_state import StateReader
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import State
from nestscope.sim.image.build import build_image
from nestscope.sim.image.kernel import ImageKernel
from nestscope.sim.image.profiles import profile_types
from nestscope.sim.image.synthetic import synthetic_state

if TYPE_CHECKING:
    from benchmarks.drgn_script import Listing, Places, ReadWords

PROFILE = "6.12-like"
PAGE_SHIFT = 16
NESTED = 32
GIB = 256
RUNS = 3
TARGET = 50

Result = TypeVar("Result")
Rows = NDArray[np.uint64]


class Seconds(NamedTuple):
    """The quickest run: seconds that passed, and seconds of the processor."""

    wall: float
    processor: float


def run() -> None:
    """Print the figures of issue 4: c of its benchmarks."""
    if find_spec("drgn") is None:
        print("skipped: drgn is not installed (pip install drgn)")
        return
    from benchmarks import drgn_script  # noqa: PLC0415 - it needs drgn

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ram.raw"
        facts = _build(path)
        ours, state = _quickest(lambda: _read(path, facts))
        told = _rows_of_state(state)
        counts = [len(rows) for rows in told]
        expected = _checksums(told)
        places = _places(path, facts, state)
        del state, told
        print(
            f"{GIB} GiB guest, pages of {1 << PAGE_SHIFT - 10} KiB: {counts[0]} host leaves, "
            f"{sum(counts[1:-1])} shadow leaves of {NESTED} nested guests, "
            f"{counts[-1]} rmap entries; all listings are equal, or this stops"
        )
        print(f"nestscope: {ours.wall:.3f} s, {ours.processor:.3f} s of the processor")
        scripts: dict[str, ReadWords] = {
            f"prog.read of whole tables (target: {TARGET} times)": drgn_script.by_table,
            "prog.read_u64 of each word (no target)": drgn_script.by_word,
        }
        for name, words in scripts.items():
            script, found = _quickest(partial(drgn_script.listing, path, places, words))
            rows = _rows_of_listing(found)
            if [len(part) for part in rows] != counts or _checksums(rows) != expected:
                raise SystemExit("the drgn script and nestscope list different things")
            del found, rows
            print(
                f"drgn, {name}: {script.wall:.2f} s, {script.processor:.2f} s of the processor; "
                f"drgn / nestscope: {script.wall / ours.wall:.1f}, of the processor "
                f"{script.processor / ours.processor:.1f}"
            )


def _build(path: Path) -> ImageKernel:
    gfns = GIB << 30 - PAGE_SHIFT
    state = synthetic_state(gfns=gfns, entries=gfns * 1_000_000 // (1 << 24), nested=NESTED)
    image = build_image(state, profile_types(PROFILE), seed=1)
    image.memory.write_raw(path)
    return image.facts


def _read(path: Path, facts: ImageKernel) -> State:
    memory, source = open_source(path)
    with memory:
        kernel = facts.open(memory, profile_types(PROFILE))
        state = StateReader(kernel, source).read()
    if state.problems:
        raise SystemExit(str(state.problems[0]))
    return state


def _places(path: Path, facts: ImageKernel, state: State) -> "Places":
    """Return the addresses that the script is told."""
    from benchmarks.drgn_script import Places  # noqa: PLC0415 - it needs drgn

    vm = state.vms[0]
    slot = vm.memslots[0]
    memory, _ = open_source(path)
    with memory:
        kernel: Kernel = facts.open(memory, profile_types(PROFILE))
        pgtable = VmReader(kernel.types, kernel.memory).vm(vm.kvm).pgtable
    assert pgtable is not None
    assert slot.rmap_array is not None
    return Places(
        pgd=facts.pgd,
        pgtable=pgtable,
        shadow=[guest.shadow_pgtable or 0 for guest in vm.nested],
        rmap_array=slot.rmap_array,
        npages=slot.npages,
        page_shift=PAGE_SHIFT,
    )


def _quickest(action: Callable[[], Result]) -> tuple[Seconds, Result]:
    """Return the seconds of the quickest run, and what the last one returned."""
    wall: list[float] = []
    processor: list[float] = []
    results: list[Result] = []
    for _ in range(RUNS):
        results.clear()
        gc.collect()
        started, used = time.perf_counter(), time.process_time()
        results.append(action())
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return Seconds(min(wall), min(processor)), results[0]


def _rows_of_state(state: State) -> list[Rows]:
    """Return host leaves, shadow leaves of each nested guest, rmap entries: rows of 3 numbers."""
    vm = state.vms[0]
    trees = [vm.host_leaves, *(guest.leaves for guest in vm.nested)]
    parts = [
        np.stack([tree.columns[name].astype(np.uint64) for name in ("address", "shift", "pte")], 1)
        for tree in trees
    ]
    chains = vm.memslots[0].rmap
    count = chains.index["count"].astype(np.int64)
    before = np.cumsum(count) - count
    where = np.arange(int(count.sum())) + np.repeat(
        chains.index["first"].astype(np.int64) - before, count
    )
    entries = chains.entries[where]
    gfn = np.repeat(chains.index["gfn"], count)
    columns = [gfn, entries["l1_lpid"].astype(np.uint64), entries["n_gpa"]]
    return [*parts, np.stack(columns, 1)]


def _rows_of_listing(listing: "Listing") -> list[Rows]:
    """Return the same of the script's lists."""
    parts = [listing.host, *listing.shadow, listing.entries]
    return [np.array(part, np.uint64).reshape(-1, 3) for part in parts]


def _checksums(parts: list[Rows]) -> list[str]:
    return [sha256(np.ascontiguousarray(rows, np.uint64).tobytes()).hexdigest() for rows in parts]
