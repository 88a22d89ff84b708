"""Rates of the software model, one core, plain Python.

Inserts into chains; whole operations (a nested access that faults, a tlbie, a
discarded host page), each as the events of a guest; memory for each rmap entry.
Seconds are those of the processor, so that other work on the machine does not count.
"""

import time
import tracemalloc
from collections.abc import Callable
from random import Random

from nestscope.sim.events import Event
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.model import Model
from nestscope.sim.operations import (
    RWXRC,
    DiscardMemory,
    Load,
    Map,
    Operation,
    SetPartitionTable,
    Tlbie,
    permission_bits,
)
from nestscope.sim.rmap import Rmap, insert, pack

CHAINS = 100_000
PER_CHAIN = 4
PAGES = 200
NESTED_GUESTS = 4
OPERATIONS = 40_000
ENTRIES = 1_000_000
PAGE = 1 << 16
WINDOW = 0x100_0000


def run() -> None:
    """Print the figures."""
    print(f"inserts into chains of up to {PER_CHAIN}: {insert_rate():,.0f} /s")
    for name, rate in operation_rates().items():
        print(f"whole operations, {name}: {rate:,.0f} /s")
    print(f"memory: {bytes_per_entry():.0f} bytes an entry at {ENTRIES:,} entries")


def insert_rate() -> float:
    """Return inserts a second: every chain grows from empty to `PER_CHAIN` entries."""
    words = [[pack(lpid, gfn << 16) for lpid in range(1, PER_CHAIN + 1)] for gfn in range(CHAINS)]
    rmap: Rmap = {}
    started = time.process_time()
    for gfn, chain in enumerate(words):
        for word in chain:
            insert(rmap, gfn, word)
    return CHAINS * PER_CHAIN / (time.process_time() - started)


def bytes_per_entry() -> float:
    """Return the memory of the rmap for each entry, measured with tracemalloc."""
    tracemalloc.start()
    rmap: Rmap = {}
    for gfn in range(ENTRIES // PER_CHAIN):
        for lpid in range(1, PER_CHAIN + 1):
            insert(rmap, gfn, pack(lpid, gfn << 16))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / ENTRIES


def operation_rates() -> dict[str, float]:
    """Return operations a second of each kind, and of all kinds mixed."""
    kinds: dict[str, Callable[[Random], Operation]] = {
        "access": lambda r: Load(r.randint(1, NESTED_GUESTS), n_gpa(r)),
        "tlbie": lambda r: Tlbie(0, 0, 1, 0, r.randint(1, NESTED_GUESTS), 5, n_gpa(r) >> 12),
        "discard": lambda r: DiscardMemory(LAYOUT.data + r.randrange(PAGES) * PAGE, PAGE),
    }
    rates = {name: rate_of([make]) for name, make in kinds.items()}
    rates["all three mixed"] = rate_of(list(kinds.values()))
    return rates


def n_gpa(random: Random) -> int:
    """Return the nested address of a random page."""
    return WINDOW + random.randrange(PAGES) * PAGE


def rate_of(makers: list[Callable[[Random], Operation]]) -> float:
    """Return how many operations a second the model executes, the events made beforehand."""
    guest, model = Guest(), Model(HostFacts())
    setup: list[Event] = guest.setup()
    setup += guest.lower(SetPartitionTable(LAYOUT.ptcr))
    for lpid in range(1, NESTED_GUESTS + 1):
        for page in range(PAGES):
            at = page * PAGE
            bits = permission_bits(RWXRC)
            setup += guest.lower(Map(lpid, WINDOW + at, LAYOUT.data + at, 16, bits))
    for event in setup:
        model.step(event)
    random = Random(1)
    events = [
        event
        for number in range(OPERATIONS)
        for event in guest.lower(makers[number % len(makers)](random))
    ]
    started = time.process_time()
    for event in events:
        model.step(event)
    return OPERATIONS / (time.process_time() - started)
