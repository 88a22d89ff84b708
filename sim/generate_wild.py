"""Actions that no sane guest takes, but that the kernel's interface accepts.

What stays out, because it ends the host and is known:

- a store through a leaf that mixes two host pages (finding 0002) writes into memory of
  the host at random, so `mix_pages` only loads; where chance leads a store there all the
  same, the model says so and the program ends;
- H_RPT_INVALIDATE of the last page below 2^64 (finding 0007) never returns.
"""

from collections.abc import Iterator

from nestscope.decoders.words.pate import make_dw0
from nestscope.decoders.words.pde import make_pde
from nestscope.decoders.words.pte import PTE_LEAF
from nestscope.sim.constants import H_ENTER_NESTED, H_SET_PARTITION_TABLE, H_TLB_INVALIDATE, U64
from nestscope.sim.entry_state import HDEC_AT, LPID_AT, MSR_AT, NIP_AT, R3_AT
from nestscope.sim.generate_guest import AP_OF_SHIFT, PAGE, Maker
from nestscope.sim.layout import MIB
from nestscope.sim.nested_cpu import NESTED_MSR
from nestscope.sim.operations import (
    RWXRC,
    DiscardMemory,
    Fetch,
    Load,
    Map,
    Operation,
    RawHcall,
    RptInvalidate,
    SetPartitionTable,
    Store,
    Tlbie,
    WriteWord,
    permission_bits,
)

ANYWHERE_WINDOW = 0x2000_0000
"""Nested addresses where any guest page may be mapped."""
OUTSIDE_WINDOW = 0x3000_0000
MIX_WINDOW = 0x6000_0000
ANYWHERE_PAGES = 16
ALL = permission_bits(RWXRC)
EXECUTE, READ = 0x101, 0x104
"""Rights of a leaf with R set."""
FAR_HDEC = 1 << 62
SAFE_END = U64 - (1 << 31)
"""A range that ends below does not wrap around (finding 0007)."""


class WildMaker:
    """Draws from the same random numbers as the guest's own actions."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self.random = maker.random
        self.layout = maker.layout

    def place(self) -> int:
        """Return the address of a page of the guest: data, a table, any structure."""
        layout = self.layout
        special = (0, layout.mailbox, layout.state, layout.partition_table, layout.payload)
        tables = tuple(at & -PAGE for at in self.some_words(2))
        return self.random.choice((*special, *self.random.sample(self.maker.data, 6), *tables))

    def some_words(self, count: int) -> list[int]:
        """Return addresses of words that the guest wrote into its tables."""
        words = sorted(self.maker.guest.words)
        return [self.random.choice(words) for _ in range(count)] if words else []

    def n_gpa(self) -> int:
        """Return a nested address where `map_anywhere` maps."""
        return ANYWHERE_WINDOW + self.random.randrange(ANYWHERE_PAGES) * PAGE

    def map_anywhere(self) -> Iterator[Operation]:
        """Map the guest's own structures and tables into a nested guest."""
        maker, lpid, n_gpa = self.maker, self.maker.lpid(), self.n_gpa()
        yield from maker.map_page(lpid, n_gpa, self.place(), 16, self.rights())
        # No place for the plain accesses, which would store over the stub's code.
        maker.mapped.discard((lpid, n_gpa, 16))

    def rights(self) -> int:
        """Return rights that keep the stub's and the payload's code whole."""
        return self.random.choice((ALL, ALL, 0x105, 0x101, 0x104))

    def mix_pages(self) -> Iterator[Operation]:
        """Let a leaf in use gain another page (finding 0002), to load from, not to store."""
        rng, maker = self.random, self.maker
        lpid = maker.lpid()
        shift, pages, first = rng.choice(
            ((16, maker.data, 0), (16, maker.data, 0), (21, maker.large, 1))
        )
        n_gpa = MIX_WINDOW + (first + rng.randrange(2) << shift)
        old, new = rng.sample(pages, 2)
        yield Map(lpid, n_gpa, old, shift, EXECUTE)
        yield Fetch(lpid, n_gpa)
        yield Map(lpid, n_gpa, new, shift, rng.choice((READ, EXECUTE | READ)))
        yield Load(lpid, n_gpa)
        if rng.random() < 0.3:
            yield Tlbie(0, 0, 1, 0, lpid, AP_OF_SHIFT[shift], n_gpa >> 12)

    def access_anywhere(self) -> Iterator[Operation]:
        """Access such a place; unaligned, or with bits that real mode must refuse, at times."""
        lpid = self.maker.lpid()
        high = self.random.choice((*[0] * 20, 1 << 52, 1 << 62, 3 << 62, 1 << 63))
        low = self.random.choice((0, 8, 0x58, 0x80, 0x1018, 0xFFC, 0xFFFC, 3, 0x2000))
        address = self.n_gpa() | high
        chance = self.random.random()
        if chance < 0.5:
            yield Load(lpid, address + low)
        elif chance < 0.8:
            # Not below 4 KiB, where the stub and the payload have their code.
            yield Store(lpid, address + 0x1000 + low % 0xE000, self.word())
        else:
            yield Fetch(lpid, address + (low & ~3))

    def word(self) -> int:
        """Return a doubleword for a table: a leaf, a table entry, nothing, anything."""
        leaf = PTE_LEAF | self.place() | self.random.getrandbits(9)
        table = make_pde(self.place() & -256, self.random.choice((5, 9, 9, 13, 0, 31)))
        odd = self.random.choice((1 << 63, 1 << 63, PTE_LEAF | 0x1000, PTE_LEAF | 1 << 40 | ALL))
        return self.random.choice((leaf, leaf, table, table, 0, odd, self.maker.value()))

    def write_word(self) -> Iterator[Operation]:
        """Change the guest's tables behind its back: the shape of a tree is any."""
        for at in self.some_words(1):
            yield WriteWord(at + self.random.choice((0, 0, 0, 8, 64)), self.word())

    def odd_tree(self) -> Iterator[Operation]:
        """Give a nested guest a root that is not one, or another's; then use it."""
        maker, layout = self.maker, self.layout
        lpid = self.random.choice(maker.lpids)
        roots = sorted(maker.guest.roots.values()) or [layout.roots]
        root = self.random.choice((*roots, self.place(), self.place() + 0x100, 1 << 40))
        dw0 = make_dw0(root & ~0xFF & (1 << 56) - 1, self.random.choice((13, 13, 13, 9, 5, 0, 14)))
        dw0 ^= self.random.choice((0, 0, 0, 0x20, 1 << 61, 1 << 63))
        entry = layout.partition_table + 16 * lpid
        yield WriteWord(entry, dw0)
        if self.random.random() < 0.2:
            yield WriteWord(entry + 8, self.random.choice((0, layout.data, 1 << 40)))
        if self.random.random() < 0.7:
            yield Tlbie(2, 0, 1, 2, lpid, 0, 0)
        yield maker.access(lpid, maker.n_gpa())

    def odd_ptcr(self) -> Iterator[Operation]:
        """Any PTCR, and a nested guest used under it; mostly the good one again."""
        maker = self.maker
        base = self.random.choice((self.layout.partition_table, self.place(), 64 * MIB - PAGE))
        ptcr = base | self.random.choice((0, 1, 4, 5, 31, 1 << 63, 0xFE0))
        form = SetPartitionTable(ptcr), RawHcall(H_SET_PARTITION_TABLE, (ptcr, 1, 2))
        yield self.random.choice(form)
        yield maker.access(maker.lpid(), maker.n_gpa())
        if self.random.random() < 0.9:
            yield SetPartitionTable(self.layout.ptcr)

    def odd_tlbie(self) -> Iterator[Operation]:
        """Any fields, any bits beside them."""
        rng, maker = self.random, self.maker
        if rng.random() < 0.5:
            ap = rng.choice((*AP_OF_SHIFT.values(), 7))
            lpid = rng.choice((maker.lpid(), maker.lpid() | 1 << 32, U64, 4096))
            epn = rng.choice((maker.n_gpa(), rng.getrandbits(64))) >> 12
            yield Tlbie(rng.randrange(4), rng.randrange(2), 1, rng.randrange(4), lpid, ap, epn)
        else:
            args = (rng.getrandbits(32), maker.lpid(), rng.getrandbits(64))
            yield RawHcall(H_TLB_INVALIDATE, args[: rng.choice((1, 3, 3, 3))])

    def odd_entry(self) -> Iterator[Operation]:
        """H_ENTER_NESTED with any pointers, version, token, LPID, MSR and registers."""
        rng, layout = self.random, self.layout
        state, regs = layout.state, layout.regs
        version, token, msr, lpid = 2, 0, NESTED_MSR, self.maker.lpid()
        pointers: tuple[int, ...] = state, regs
        odd = rng.randrange(8)
        if odd == 0:
            version = rng.choice((1, 0, 3, U64, 1 << 32 | 2))
        elif odd == 1:
            token = rng.choice((2047, 2048, 1 << 31))
        elif odd == 2:
            msr |= rng.choice((1 << 60, 1 << 33, 1 << 34))
        elif odd == 3:
            lpid = rng.getrandbits(32)
        elif odd == 4:
            pointers = self.pointers()
        # What lies elsewhere is not to be run: there the time is over at once.
        time = 0 if odd == 4 else rng.choice((0, FAR_HDEC))
        yield WriteWord(state + HDEC_AT, swapped(time))
        yield WriteWord(state, swapped(version))
        yield WriteWord(state + LPID_AT, swapped(token << 32 | lpid))
        yield WriteWord(regs + MSR_AT, swapped(msr))
        yield WriteWord(regs + NIP_AT, swapped(rng.choice((0, 0, 0x0C, 0x14, 0x24, 0x300))))
        yield WriteWord(
            regs + R3_AT, swapped(rng.choice((self.n_gpa(), 0x7FF8, self.maker.n_gpa())))
        )
        yield RawHcall(H_ENTER_NESTED, pointers)

    def pointers(self) -> tuple[int, ...]:
        """Return where H_ENTER_NESTED may be told to look."""
        end = self.layout.size
        places = (self.layout.state, self.layout.regs, end - 8, end - 256, end, U64 - 7, 4, 1 << 60)
        return self.random.choice(places), self.random.choice(places)

    def range_invalidate(self) -> Iterator[Operation]:
        """H_RPT_INVALIDATE: mostly a range of data, or any arguments."""
        rng, maker = self.random, self.maker
        start = maker.n_gpa() if rng.random() < 0.7 else rng.getrandbits(64)
        length = rng.choice((0, 1, PAGE, 4 * PAGE, 33 * PAGE, 35 * PAGE, 1 << 30))
        start, end = min(start, SAFE_END - length), min(start, SAFE_END - length) + length
        if rng.random() < 0.2:
            start, end = rng.choice(((0, U64), (1, 0), (PAGE, 0)))
        lpid = rng.choice((maker.lpid(), maker.lpid(), rng.getrandbits(40)))
        target = rng.choice((1, 1, 1, 1, 2, 0, 3))
        kind = rng.choice((3, 3, 3, 0xF, 5, 9, 1, 2, rng.getrandbits(16)))
        yield RptInvalidate(lpid, target, kind, rng.choice((2, 2, 1, 4, 15, 0, 16)), start, end)

    def discard_anywhere(self) -> Iterator[Operation]:
        """The host takes the page of a table or of a structure back."""
        place = self.place()
        if place not in (self.layout.code & -PAGE, self.layout.payload):
            yield DiscardMemory(place, PAGE)

    def outside_memory(self) -> Iterator[Operation]:
        """A leaf that leads where the guest has no memory: emulated MMIO."""
        lpid = self.maker.lpid()
        n_gpa = OUTSIDE_WINDOW + self.random.randrange(2) * PAGE
        gpa = self.random.choice((self.layout.size, 1 << 40, (1 << 57) - PAGE))
        yield Map(lpid, n_gpa, gpa, 16, ALL)
        yield self.maker.access(lpid, n_gpa)


def swapped(value: int) -> int:
    """Return the doubleword that reads as `value` for a little-endian kernel."""
    return int.from_bytes((value & U64).to_bytes(8, "big"), "little")
