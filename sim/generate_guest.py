"""Actions of the guest hypervisor in a random program, each a few operations.

A calm profile (`sim.profile.CALM`) stays with what keeps the invariants and ends at
once. What is left out of it needs a habit or a weight of its own:

- another guest page at a nested address that may still be in a shadow tree (the host
  ORs the two page numbers, finding 0002): an unmap and a tlbie come before;
- a leaf that permits writing but not reading (over a read-only host page a load
  retries until the nested guest's time is up);
- the payload's page is never discarded: no nested guest runs without it.

l1_lpid 0 takes part always: its entry for nested address 0, the payload's, packs to
the word 0 and ends the kernel's walk of that chain (finding 0001), so the chain
collects duplicates behind it; the model follows (`rmap.walked_words`).
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
)
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.guest import Guest
from nestscope.sim.layout import MIB, GuestLayout
from nestscope.sim.operations import (
    RWXRC,
    DiscardMemory,
    Drop,
    Fetch,
    Load,
    Map,
    Operation,
    SetPartitionTable,
    Store,
    Tlbie,
    Unmap,
    WriteCode,
    WriteData,
    permission_bits,
)
from nestscope.sim.profile import Profile

PAGE = 1 << 16
GRAIN = 1 << 12
LARGE = 2 * MIB
NESTED_GUESTS = 20
"""l1_lpids 0 to 15, and four far apart."""
DATA_PAGES = 24
CODE_PAGES = 4
LARGE_PAGES = 4
WINDOWS = (0x100_0000, 0x5000_0000, 0x1234_5678_0000, 0xF_FFFF_FF00_0000)
"""Nested addresses of data: near, past 1 GiB, far, in the last root entry."""
CODE_WINDOW = 0x800_0000
SMALL_WINDOW = 0x900_0000
LARGE_WINDOW = 0x4000_0000
AP_OF_SHIFT = {12: 0, 16: 5, 21: 1, 30: 2}


@dataclass
class Maker:
    """What the generator must remember: which guest page a shadow tree may hold where."""

    random: Random
    layout: GuestLayout
    profile: Profile
    guest: Guest = field(default_factory=Guest)
    cached: dict[tuple[int, int], int] = field(default_factory=dict)
    mapped: set[tuple[int, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.forget()
        far = self.random.sample(range(20, 4096), 4)
        self.lpids: list[int] = [*range(NESTED_GUESTS - 4), *far]

    def forget(self) -> None:
        """Begin with an empty guest."""
        self.cached.clear()
        self.mapped.clear()
        self.data = [self.layout.data + i * PAGE for i in range(DATA_PAGES)]
        first_large = (self.data[-1] + LARGE) & -LARGE
        self.large = [first_large + i * LARGE for i in range(LARGE_PAGES)]
        code = self.large[-1] + LARGE
        self.code = [code + i * PAGE for i in range(CODE_PAGES)]
        self.coded: set[int] = set()

    def follow(self, operation: Operation) -> None:
        """Know where the guest's tables are, for what changes them behind its back."""
        if self.profile.write_word or self.profile.odd_tree:
            with suppress(GuestLayoutError):
                self.guest.lower(operation)

    def lpid(self) -> int:
        """Few nested guests get most of the work, so that chains collide."""
        if self.happens(self.profile.any_lpid):
            return self.random.choice((4095, 4096, 0xFFFF_FFFF, self.random.getrandbits(32)))
        lpids = self.lpids[:4] if self.happens(self.profile.crowd) else self.lpids
        return self.random.choice(lpids)

    def happens(self, probability: float) -> bool:
        """Decide whether a habit shows; draws no number where it never does."""
        return probability > 0 and self.random.random() < probability

    def permissions(self) -> int:
        """Any permissions that end, any R and C bits; mostly everything."""
        if self.random.random() < 0.6:
            return permission_bits(RWXRC)
        if self.happens(self.profile.any_rights):
            return self.random.getrandbits(64) & permission_bits(RWXRC)
        rights = self.random.choice(
            (0, PTE_EAA_READ, PTE_EAA_EXECUTE, PTE_EAA_READ | PTE_EAA_WRITE)
        )
        rights |= self.random.choice((0, PTE_EAA_EXECUTE))
        return rights | self.random.choice((0, PTE_R, PTE_R | PTE_C, PTE_C))

    def n_gpa(self) -> int:
        """Return a nested address of data."""
        window: int = self.random.choice(WINDOWS)
        return window + self.random.randrange(8) * PAGE

    def offset(self) -> int:
        """Return where in a page an access goes."""
        return self.random.randrange(0, PAGE, 8) if self.random.random() < 0.5 else 0

    def map_page(
        self, lpid: int, n_gpa: int, gpa: int, shift: int, bits: int
    ) -> Iterator[Operation]:
        """Map; first clear the way if another guest page may be cached anywhere there."""
        grains = range(0, 1 << shift, GRAIN)
        cached = any(self.cached.get((lpid, n_gpa + i), gpa + i) != gpa + i for i in grains)
        if cached and not self.happens(self.profile.remap_in_place):
            yield Unmap(lpid, n_gpa)
            yield Tlbie(0, 0, 1, 0, lpid, AP_OF_SHIFT[shift], n_gpa >> 12)
        yield Map(lpid, n_gpa, gpa, shift, bits)
        self.cached.update({(lpid, n_gpa + i): gpa + i for i in grains})
        self.mapped.add((lpid, n_gpa, shift))

    def map_data(self) -> Iterator[Operation]:
        """Several nested addresses and nested guests share few guest pages."""
        gpa = self.random.choice(self.data)
        yield from self.map_page(self.lpid(), self.n_gpa(), gpa, 16, self.permissions())

    def map_large(self) -> Iterator[Operation]:
        """Leaves of 2 MiB."""
        n_gpa = LARGE_WINDOW + self.random.randrange(2) * LARGE
        gpa = self.random.choice(self.large)
        yield from self.map_page(self.lpid(), n_gpa, gpa, 21, self.permissions())

    def map_small(self) -> Iterator[Operation]:
        """4K leaves: a host with 64K pages refuses them at the first access."""
        n_gpa = SMALL_WINDOW + self.random.randrange(16) * GRAIN
        gpa = self.data[0] + self.random.randrange(16) * GRAIN
        lpid = self.lpid()
        yield from self.map_page(lpid, n_gpa, gpa, 12, self.permissions())
        yield Load(lpid, n_gpa)

    def map_code(self) -> Iterator[Operation]:
        """Code keeps its place: each nested address of the window has its own guest page."""
        i = self.random.randrange(CODE_PAGES)
        if i not in self.coded:
            self.coded.add(i)
            yield WriteCode(self.code[i])
        bits = self.permissions()
        yield from self.map_page(self.lpid(), CODE_WINDOW + i * PAGE, self.code[i], 16, bits)

    def fetch(self) -> Iterator[Operation]:
        """Jump to code."""
        if self.coded:
            i = self.random.choice(sorted(self.coded))
            yield Fetch(self.lpid(), CODE_WINDOW + i * PAGE)

    def access(self, lpid: int, n_gpa: int) -> Operation:
        """Return a load or a store."""
        if self.random.random() < 0.5:
            return Load(lpid, n_gpa)
        return Store(lpid, n_gpa, self.value())

    def access_data(self) -> Iterator[Operation]:
        """Mostly where something is mapped."""
        places = [
            p for p in sorted(self.mapped) if p[2] == 16 and p[1] not in self.code_addresses()
        ]
        if places and self.random.random() < 0.85:
            lpid, n_gpa, _ = self.random.choice(places)
            yield self.access(lpid, n_gpa + self.offset())
        else:
            yield self.access(self.lpid(), self.n_gpa() + self.offset())

    def code_addresses(self) -> range:
        """Return the nested addresses where only code is mapped."""
        return range(CODE_WINDOW, CODE_WINDOW + CODE_PAGES * PAGE, PAGE)

    def access_large(self) -> Iterator[Operation]:
        """Access what `map_large` maps."""
        n_gpa = LARGE_WINDOW + self.random.randrange(2) * LARGE + self.random.randrange(4) * PAGE
        yield self.access(self.lpid(), n_gpa + self.offset())

    def unmap(self) -> Iterator[Operation]:
        """Without a tlbie, so that the shadow leaf may outlive the guest's."""
        if self.mapped:
            place = self.random.choice(sorted(self.mapped))
            self.mapped.discard(place)
            yield Unmap(place[0], place[1])

    def discard(self) -> Iterator[Operation]:
        """The host takes pages back; code is written anew."""
        pages = self.random.choice((1, 1, 1, 2, 5))
        gpa = self.random.choice(self.data[: DATA_PAGES - pages] + self.large[:1])
        yield DiscardMemory(gpa, pages * PAGE)
        if self.coded and self.random.random() < 0.2:
            i = self.random.choice(sorted(self.coded))
            yield DiscardMemory(self.code[i], PAGE)
            yield WriteCode(self.code[i])

    def write_data(self) -> Iterator[Operation]:
        """The VMM writes into the guest's data."""
        yield WriteData(self.random.choice(self.data), self.value())

    def value(self) -> int:
        """Return what to store; where data may be executed, it is no known instruction."""
        if self.profile.map_anywhere or self.profile.odd_tree:
            return self.random.getrandbits(26) << 32 | self.random.getrandbits(25)
        return self.random.getrandbits(64)

    def tlbie_address(self) -> Iterator[Operation]:
        """Any page size that the host knows or does not know."""
        if self.mapped and self.random.random() < 0.8:
            lpid, n_gpa, _ = self.random.choice(sorted(self.mapped))
        else:
            lpid, n_gpa = self.lpid(), self.n_gpa()
        ap = self.random.choice((5, 5, 5, 0, 1, 3, 7))
        yield Tlbie(0, 0, 1, 0, lpid, ap, n_gpa >> 12)

    def tlbie_guest(self) -> Iterator[Operation]:
        """Invalidate one nested guest."""
        yield Tlbie(self.random.choice((0, 1, 2)), 0, 1, 2, self.lpid(), 0, 0)

    def tlbie_all(self) -> Iterator[Operation]:
        """Invalidate all nested guests."""
        yield Tlbie(self.random.choice((0, 1, 2)), 0, 1, 3, 0, 0, 0)

    def tlbie_invalid(self) -> Iterator[Operation]:
        """Forms that the host refuses: HPT, process scoped, RIC 3, IS 1, by address."""
        form = self.random.choice(
            ((0, 0, 0, 0), (0, 1, 1, 0), (3, 0, 1, 2), (0, 0, 1, 1), (1, 0, 1, 0), (2, 0, 1, 0))
        )
        yield Tlbie(*form, self.lpid(), 5, self.n_gpa() >> 12)

    def drop(self) -> Iterator[Operation]:
        """The nested guest's addresses are free for other pages afterwards."""
        lpid = self.lpid()
        yield Drop(lpid)
        self.mapped = {place for place in self.mapped if place[0] != lpid}

    def bad_ptcr(self) -> Iterator[Operation]:
        """PTCRs that are refused or make the table smaller; then the good one again."""
        base = self.layout.partition_table
        yield SetPartitionTable(
            self.random.choice((0, base | 5, base | 0x1F, 1 << 40, base, base | 3))
        )
        yield self.access(self.lpid(), self.n_gpa())
        yield SetPartitionTable(self.layout.ptcr)

    def stray_access(self) -> Iterator[Operation]:
        """Where nothing is mapped, in nested guests that may not exist."""
        yield self.access(self.random.choice((*self.lpids, 4095, 4096)), 0x700_0000)
