"""All leaves and rmap entries of one image: nestscope, and scripts for drgn.

All open the same raw image of RAM, and all read it to the end: the time is that
of opening and reading. Four scripts:

- *typed, read_()*: as a careful user of drgn writes it, and what the target is for. Typed
  objects and drgn's helpers from `vm_list` on; a table is an array object that is read
  with one `read_()` before its elements are taken (`drgn_typed`).
- *typed*: the same without `read_()`, so each element is read when it is taken.
- *tuned, by table*: no types; told where the trees and the array are, it reads whole
  tables with `prog.read` and unpacks them with `struct` (`drgn_script`).
- *tuned, by word*: the same with `prog.read_u64` for each word.

drgn reads the image through memory segments with a callback over a mapping, because
that was quicker for it than an ELF core, which it reads with a system call each time
(whole tables of a 64 GiB guest: 0.37 s instead of 0.41 s; word by word: 1.2 s instead
of 2.2 s). Each figure is the quickest of three runs, the file being in memory.
Processor time is less disturbed by other programs.
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
    from benchmarks.drgn_script import Listing, Places

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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ram.raw"
        facts = _build(path)
        ours, state = _quickest(lambda: _read(path, facts))
        told = _rows_of_state(state)
        counts = [len(rows) for rows in told]
        expected = _checksums(told)
        scripts = _scripts(path, facts, state)
        del state, told
        items = sum(counts)
        print(
            f"{GIB} GiB guest, pages of {1 << PAGE_SHIFT - 10} KiB: {counts[0]} host leaves, "
            f"{sum(counts[1:-1])} shadow leaves of {NESTED} nested guests, "
            f"{counts[-1]} rmap entries; all listings are equal, or this stops"
        )
        print(
            f"nestscope: {ours.wall:.3f} s, {ours.processor:.3f} s of the processor, "
            f"{ours.processor / items * 1e9:.1f} ns an item"
        )
        for name, script in scripts.items():
            theirs, found = _quickest(script)
            rows = _rows_of_listing(found)
            if [len(part) for part in rows] != counts or _checksums(rows) != expected:
                raise SystemExit("the drgn script and nestscope list different things")
            del found, rows
            print(
                f"drgn, {name}: {theirs.wall:.2f} s, {theirs.processor:.2f} s of the processor, "
                f"{theirs.processor / items * 1e9:.0f} ns an item; "
                f"drgn / nestscope: {theirs.wall / ours.wall:.0f}, of the processor "
                f"{theirs.processor / ours.processor:.0f}"
            )


def _scripts(path: Path, facts: ImageKernel, state: State) -> "dict[str, Callable[[], Listing]]":
    """Return the scripts by what they are called."""
    from benchmarks import drgn_script, drgn_typed  # noqa: PLC0415 - they need drgn

    places = _places(path, facts, state)
    types = profile_types(PROFILE)
    typed = partial(drgn_typed.listing, path, facts.pgd, facts.vm_list, types)
    tuned = partial(drgn_script.listing, path, places)
    return {
        f"typed, read_() (target: {TARGET} times)": partial(typed, drgn_typed.read_first),
        "typed": partial(typed, drgn_typed.one_by_one),
        "tuned, by table": partial(tuned, drgn_script.by_table),
        "tuned, by word": partial(tuned, drgn_script.by_word),
    }


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
