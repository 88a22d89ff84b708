"""Mutated dumps: no exception escapes, and each case is bounded in time and memory.

`python -m tests.plugin.dumps.hostile CASES [SEED]` runs many cases and prints how many.
"""

import lzma
import resource
import signal
import sys
import time
from dataclasses import dataclass
from functools import cache
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

MAX_SECONDS = 5
MAX_BYTES = 500 << 20


@dataclass(frozen=True)
class Original:
    """A capture's bytes, and where in it something is: offsets of its words that are not 0."""

    name: str
    data: bytes
    places: tuple[int, ...]


@cache
def originals() -> tuple[Original, ...]:
    """Return the samples, unpacked."""
    found = []
    for name in sample_names():
        data = lzma.decompress(sample_path(f"sample:{name}").read_bytes())
        words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
        found.append(Original(name, data, tuple((np.flatnonzero(words) * 8).tolist())))
    return tuple(found)


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


def random_case(random: Random) -> tuple[Original, list[Edit], int | None]:
    """Return a case: words exchanged, bits flipped, bytes set, the file cut."""
    original = random.choice(originals())
    size = len(original.data)
    edits = []
    for _ in range(random.choice((1, 1, 2, 3, 8, 40))):
        place = random.choice(original.places) if random.random() < 0.9 else random.randrange(size)
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
    start, slowest, read, with_problems = time.monotonic(), 0.0, 0, 0
    for number in range(cases):
        random = Random(seed << 32 | number)
        original, edits, cut = random_case(random)
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        try:
            state = look(mutate(original, edits, cut))
        except BaseException:
            print(f"case {number} of seed {seed} ({original.name}) escaped: {edits}, cut {cut}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - began)
        read += state is not None
        with_problems += bool(state is not None and state.problems)
        if number % 1000 == 999:
            print(f"{number + 1} cases, slowest {slowest:.2f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{cases} cases of seed {seed} in {time.monotonic() - start:.0f} s: {read} States read, "
        f"{with_problems} with problems, {cases - read} refused; slowest {slowest:.2f} s, "
        f"peak {peak} MiB"
    )


if __name__ == "__main__":
    main()
