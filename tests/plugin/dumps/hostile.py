"""Mutated dumps: no exception escapes, each case is bounded in time and memory, and what
the mutation does not touch is still listed.

`python -m tests.plugin.dumps.hostile CASES [SEED]` runs many cases and prints how many.
"""

import lzma
import resource
import signal
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from random import Random
from types import FrameType

import numpy as np

from nestscope.decoders.captured import is_capture, open_capture
from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.mapped import MappedFile
from nestscope.decoders.sources.open import open_contents
from nestscope.decoders.state import Source, State
from nestscope.decoders.state_json import iter_json
from nestscope.plugin.samples import sample_names, sample_path
from tests.plugin.dumps.footprint import WORD, Identity, footprints, identities

MAX_SECONDS = 5
MAX_BYTES = 500 << 20


@dataclass(frozen=True)
class Original:
    """A capture: its bytes, and what is in them.

    `places` are the offsets of its words that are not 0, `owners` the objects that
    hang on the word at an offset, `listed` what its State lists, and `segments` the
    memory in it: offset, size.
    """

    name: str
    data: bytes
    places: tuple[int, ...]
    owners: Mapping[int, Sequence[Identity]] = field(repr=False)
    listed: Mapping[Identity, Hashable] = field(repr=False)
    segments: tuple[tuple[int, int], ...]

    @cached_property
    def owned(self) -> tuple[int, ...]:
        """Offsets of the words that some object hangs on."""
        return tuple(self.owners)


@cache
def originals() -> tuple[Original, ...]:
    """Return the samples, unpacked."""
    found = []
    for name in sample_names():
        data = lzma.decompress(sample_path(f"sample:{name}").read_bytes())
        words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
        places = tuple((np.flatnonzero(words) * 8).tolist())
        with open_contents(MappedFile.holding(Path(name), data)) as memory:
            assert isinstance(memory, ElfCore)
            captured, kernel = open_capture(memory, memory.notes)
            state = read_state(captured, kernel, Source("elf-core", name))
            prints = footprints(state, captured, kernel)
            owners: dict[int, list[Identity]] = {}
            for identity, hangs_on in prints.words.items():
                for word in hangs_on:
                    owners.setdefault(_offset(memory, word * WORD), []).append(identity)
            segments = tuple((part.offset, part.size) for part in memory.segments)
        found.append(Original(name, data, places, owners, prints.listed, segments))
    return tuple(found)


def _offset(memory: ElfCore, address: int) -> int:
    """Return where in the file a physical address is."""
    for part in memory.segments:
        if part.start <= address < part.start + part.size:
            return part.offset + address - part.start
    raise AssertionError(f"the capture does not hold {address:#x}, which an object hangs on")


@dataclass(frozen=True)
class Edit:
    """Bytes that are put at an offset of the file."""

    offset: int
    data: bytes


def mutate(original: Original, edits: list[Edit], cut: int | None) -> bytes:
    """Return the original with the edits made, then cut off at `cut` bytes."""
    data = bytearray(original.data)
    for edit in edits:
        end = min(edit.offset + len(edit.data), len(data))
        data[edit.offset : end] = edit.data[: end - edit.offset]
    return bytes(data if cut is None else data[:cut])


def look(data: bytes) -> State | None:
    """Open a dump and read all of it; return the State, or None if it was refused.

    Anything but a `NestscopeError` is an escape and is not caught.
    """
    try:
        with open_contents(MappedFile.holding(Path("mutated"), data)) as memory:
            if not isinstance(memory, ElfCore) or not is_capture(memory.notes):
                # Without its notes the memory alone cannot tell what it is.
                memory.read(0, 8)
                return None
            captured, kernel = open_capture(memory, memory.notes)
            state = read_state(captured, kernel, Source("elf-core", "mutated"))
            for _ in iter_json(state):
                pass
            return state
    except NestscopeError:
        return None


def missing(original: Original, edits: list[Edit], state: State | None) -> list[Identity] | None:
    """Return the objects that hang on no edited word, but are not listed as before.

    None: the edits are such that nothing can be said, because they change headers or
    notes, which everything hangs on.

    One loss is lawful: a table that an edited word leads to as well is read once, so
    leaves can be lost where a problem names that, with the path of their tree.
    """
    touched = set()
    for edit in edits:
        changed = [
            edit.offset + at
            for at, (new, old) in enumerate(
                zip(edit.data, original.data[edit.offset :], strict=False)
            )
            if new != old
        ]
        for byte in changed:
            if not any(start <= byte < start + size for start, size in original.segments):
                return None
            touched.add(byte // WORD * WORD)
    hit = {identity for word in touched for identity in original.owners.get(word, ())}
    if state is None:
        return [identity for identity in original.listed if identity not in hit]
    now = dict(identities(state))
    lost = [
        identity
        for identity, before in original.listed.items()
        if identity not in hit and now.get(identity) != before
    ]
    if not lost:
        return []
    shared = {problem.path for problem in state.problems if "second time" in problem.message}
    return [identity for identity in lost if _tree_path(state, identity) not in shared]


def _tree_path(state: State, identity: Identity) -> str | None:
    """Return the path of the tree that a leaf is in; None for other objects."""
    kind, kvm, *rest = identity
    if kind not in ("host leaf", "shadow leaf"):
        return None
    for number, vm in enumerate(state.vms):
        if vm.kvm != kvm:
            continue
        if kind == "host leaf":
            return f"vms[{number}].host_leaves"
        for at, guest in enumerate(vm.nested):
            if guest.l1_lpid == rest[0]:
                return f"vms[{number}].nested[{at}].leaves"
    return None


def random_case(random: Random) -> tuple[Original, list[Edit], int | None]:
    """Return a case: words exchanged, bits flipped, bytes set, the file cut."""
    original = random.choice(originals())
    size = len(original.data)
    edits = []
    for _ in range(random.choice((1, 1, 2, 3, 8, 40))):
        where = random.random()
        if where < 0.45:
            place = random.choice(original.owned)
        else:
            place = random.choice(original.places) if where < 0.9 else random.randrange(size)
        word = int.from_bytes(original.data[place : place + 8], "little")
        kind = random.randrange(7)
        if kind == 0:
            new = word ^ 1 << random.randrange(64)
        elif kind == 1:
            # Another word of the same file: pointers that cross, lists that meet.
            other = random.choice(original.places)
            new = int.from_bytes(original.data[other : other + 8], "little")
        elif kind == 2:
            new = random.choice((0, 1, (1 << 64) - 1, 1 << 63, 0xFFF << 52, 0x7FFF_FFFF))
        elif kind == 3:
            new = word + random.choice((-8, 8, 16, -4096, 4096, 1 << 16)) & (1 << 64) - 1
        elif kind == 4:
            new = random.getrandbits(64)
        elif kind == 5:
            byte = random.randrange(8) * 8
            new = word & ~(0xFF << byte) | random.getrandbits(8) << byte
        else:
            new = int.from_bytes(word.to_bytes(8, "little"), "big")
        edits.append(Edit(place, new.to_bytes(8, "little")))
    cut = random.randrange(size) if random.random() < 0.03 else None
    return original, edits, cut


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a case took more than {MAX_SECONDS} s")


def main() -> None:
    """Run cases, each under a clock and all under a limit of memory."""
    cases, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    originals()
    status = Path("/proc/self/statm").read_text().split()[0]
    size = int(status) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, size + MAX_BYTES))
    signal.signal(signal.SIGALRM, _too_slow)
    start, slowest, read, with_problems, complete = time.monotonic(), 0.0, 0, 0, 0
    for number in range(cases):
        random = Random(seed << 32 | number)
        original, edits, cut = random_case(random)
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        try:
            state = look(mutate(original, edits, cut))
            lost = missing(original, edits, state) if cut is None else None
            if lost:
                raise AssertionError(f"not listed any more: {lost[:3]}")
        except BaseException:
            print(f"case {number} of seed {seed} ({original.name}) escaped: {edits}, cut {cut}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - began)
        read += state is not None
        with_problems += bool(state is not None and state.problems)
        complete += lost == []
        if number % 1000 == 999:
            print(f"{number + 1} cases, slowest {slowest:.2f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{cases} cases of seed {seed} in {time.monotonic() - start:.0f} s: {read} States read, "
        f"{with_problems} with problems, {cases - read} refused; in {complete} all that the edits "
        f"do not touch was asked for and listed; slowest {slowest:.2f} s, peak {peak} MiB"
    )


if __name__ == "__main__":
    main()
