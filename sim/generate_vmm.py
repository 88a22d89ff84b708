"""Actions of the VMM and its host in a random program: memslots, dirty logs, memory, ageing.

Slots come at any base, size and host address that the ioctl takes or refuses, over memory
of their own or over that of another slot. Left out, because the guest would not survive it
and nothing could be compared any more:

- host memory behind the guest's own code and tables;
- a huge page that reaches out of a slot that maps it at a congruent address: the kernel
  then writes beyond the rmap array (finding 0003).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from nestscope.sim.constants import KVM_MEM_LOG_DIRTY_PAGES, PMD_SHIFT
from nestscope.sim.events import (
    AddSlot,
    AdviseHuge,
    Age,
    AllocateHtab,
    ClearDirtyLog,
    ClearRefs,
    CollapseHuge,
    DeleteSlot,
    DestroyVm,
    Fork,
    GetDirtyLog,
    MapHugetlb,
    Migrate,
    MoveSlot,
    Protect,
    Remap,
    SetSlotFlags,
    SplitHuge,
    SwitchToHpt,
    SwitchToRadix,
)
from nestscope.sim.generate_guest import LARGE, PAGE, Maker
from nestscope.sim.layout import MIB
from nestscope.sim.operations import (
    CreateGuest,
    DiscardMemory,
    Load,
    Operation,
    SetPartitionTable,
    Simple,
    Store,
    Tlbie,
    Together,
    Unmap,
)

SLOT_IDS = range(1, 7)
FIRST_BASE = 0x400_0000
BASES = 32
FRESH = 0x2000_0000_0000
FRESH_STRIDE = 1 << 30
SIZES = (PAGE, 2 * PAGE, 5 * PAGE, MIB, LARGE, 3 * MIB, 2 * LARGE, 8 * LARGE)
LOG = KVM_MEM_LOG_DIRTY_PAGES
USED_PAGES = 3
"""Pages of a slot that the guest maps, so that chains collide there, too."""
GUEST_SLOT = 0


@dataclass
class Slot:
    """A memslot as the kernel has it by now. All in bytes."""

    gpa: int
    size: int
    hva: int
    flags: int

    def overlaps(self, gpa: int, size: int) -> bool:
        """Whether it has guest addresses of a range."""
        return self.gpa < gpa + size and gpa < self.gpa + self.size

    def pages(self) -> list[int]:
        """Return the guest addresses that programs use of it."""
        first = self.gpa + -self.gpa % PAGE
        return list(range(first, self.gpa + self.size - PAGE + 1, PAGE))[:USED_PAGES]


@dataclass
class VmmMaker:
    """What the VMM remembers: its slots, what it made read-only, blocks of huge pages (hva)."""

    guest: Maker
    slots: dict[int, Slot] = field(default_factory=dict)
    protected: list[tuple[int, int]] = field(default_factory=list)
    huge: set[int] = field(default_factory=set)
    logging: bool = False

    def __post_init__(self) -> None:
        self.random = self.guest.random
        self.layout = self.guest.layout

    def add_slot(self) -> Iterator[Operation]:
        """A memslot of any shape; one of six is refused by the ioctl for sure."""
        random = self.random
        slot = random.choice(SLOT_IDS)
        size = random.choice(SIZES)
        new = Slot(self.base(), size, self.host_address(slot, size), random.choice((0, 0, LOG)))
        if slot in self.slots and new.hva == self.slots[slot].hva:
            new.hva += PAGE  # otherwise it could be a move
        if random.random() < 1 / 6:
            yield self.wrong_slot(slot, new)
            return
        if not self.keeps_huge_pages(new):
            return
        yield AddSlot(slot, new.gpa, new.size, new.hva, new.flags)
        if slot not in self.slots and not self.taken(new.gpa, size, slot):
            self.slots[slot] = new
            self.guest.data += new.pages()

    def wrong_slot(self, slot: int, new: Slot) -> Operation:
        """Return a request with one thing wrong in it."""
        gpa, size, hva = new.gpa, new.size, new.hva
        return self.random.choice(
            (
                AddSlot(slot, gpa + 0x100, size, hva, 0),
                AddSlot(slot, gpa, size + 0x100, hva, 0),
                AddSlot(slot, gpa, size, hva + 0x100, 0),
                AddSlot(slot, gpa, size, hva, 2),
                AddSlot(slot, gpa, size, hva, 8),
                AddSlot(slot + 0x10000, gpa, size, hva, 0),
                AddSlot(0x7FFE, gpa, size, hva, 0),
                AddSlot(7, gpa, 0, 0, 0),
                AddSlot(slot, -PAGE & (1 << 64) - 1, 2 * PAGE, hva, 0),
            )
        )

    def base(self) -> int:
        """Return a guest address beyond the guest itself, aligned to 64K or more."""
        base = FIRST_BASE + self.random.randrange(BASES) * LARGE
        return base + self.random.choice((0, 0, 1, 31)) * PAGE

    def host_address(self, slot: int, size: int) -> int:
        """Return where in the VMM: fresh, over the guest's data, or over another slot."""
        kind = self.random.random()
        own = self.layout.userspace_addr
        if kind < 0.25:
            room = self.layout.size - self.layout.data - size
            if room > 0:
                return own + self.layout.data + self.random.randrange(0, room, PAGE)
        if kind < 0.4 and self.slots:
            other = self.random.choice(list(self.slots.values()))
            return other.hva + self.random.choice((0, PAGE))
        return FRESH + slot * FRESH_STRIDE + self.random.choice((0, 0, PAGE, LARGE))

    def taken(self, gpa: int, size: int, slot: int) -> bool:
        """Whether another slot has one of these guest addresses."""
        return any(s.overlaps(gpa, size) for number, s in self.slots.items() if number != slot)

    def delete_slot(self) -> Iterator[Operation]:
        """What the guest had mapped there it unmaps, mostly."""
        if self.slots:
            slot = self.random.choice(list(self.slots))
            yield from self.leave(self.slots.pop(slot))
            yield DeleteSlot(slot)

    def move_slot(self) -> Iterator[Operation]:
        """To a place that is free, or not."""
        if self.slots:
            slot = self.random.choice(list(self.slots))
            moved, gpa = self.slots[slot], self.base()
            if gpa == moved.gpa or self.taken(gpa, moved.size, slot):
                yield MoveSlot(slot, gpa)
                return
            if not self.keeps_huge_pages(replace(moved, gpa=gpa)):
                return
            yield from self.leave(moved)
            yield MoveSlot(slot, gpa)
            moved.gpa = gpa
            self.guest.data += moved.pages()

    def leave(self, slot: Slot) -> Iterator[Operation]:
        """Let the guest use the addresses of a slot no longer."""
        guest = self.guest
        pages = slot.pages()
        guest.data = [gpa for gpa in guest.data if gpa not in pages]
        for lpid, n_gpa, shift in sorted(guest.mapped):
            if guest.cached.get((lpid, n_gpa)) in pages:
                guest.mapped.discard((lpid, n_gpa, shift))
                yield Unmap(lpid, n_gpa)
        for where, gpa in list(guest.cached.items()):
            if slot.overlaps(gpa, 1):
                del guest.cached[where]

    def slot_flags(self) -> Iterator[Operation]:
        """Dirty logging goes on or off; an unknown flag is refused."""
        slot = self.random.choice((GUEST_SLOT, *self.slots))
        flags = self.random.choice((LOG, LOG, 0, 4))
        yield SetSlotFlags(slot, flags)
        if slot == GUEST_SLOT and flags in (0, LOG):
            self.logging = flags == LOG
        elif flags in (0, LOG):
            self.slots[slot].flags = flags

    def dirty_log(self) -> Iterator[Operation]:
        """The log of a slot that logs, or does not, or is not there."""
        logging = [number for number, slot in self.slots.items() if slot.flags == LOG]
        logging += [GUEST_SLOT] if self.logging else []
        if logging and self.random.random() < 0.8:
            yield GetDirtyLog(self.random.choice(logging))
        else:
            yield GetDirtyLog(self.random.choice((GUEST_SLOT, *self.slots, 7)))

    def clear_dirty_log(self) -> Iterator[Operation]:
        """POWER has no such ioctl."""
        yield ClearDirtyLog(GUEST_SLOT, 0, 64)

    def page(self) -> int:
        """Return a data page of any slot."""
        return self.random.choice(self.guest.data + self.guest.large[:1])

    def range_of_pages(self) -> tuple[int, int]:
        """Return a page, or a few that follow each other in the guest's own data."""
        gpa = self.page()
        pages = self.random.choice((1, 1, 2)) if gpa in self.guest.data[:-1] else 1
        return gpa, pages * PAGE if gpa + PAGE in self.guest.data else PAGE

    def block(self) -> int:
        """Return an aligned block of 2 MiB in the guest's own data."""
        first = -(-self.layout.data // LARGE)
        return self.random.choice((first * LARGE, *self.guest.large))

    def huge_block(self) -> tuple[int, int] | None:
        """Return gpa and hva of a block of any slot that may get a huge page.

        None where the one that comes to mind reaches out of a slot.
        """
        slot = self.random.choice(self.all_slots())
        first = slot.hva + -slot.hva % LARGE
        blocks = [
            (slot.gpa + hva - slot.hva, hva)
            for hva in range(first, slot.hva + slot.size - LARGE + 1, LARGE)
        ]
        if slot.hva == self.layout.userspace_addr or not blocks:
            gpa = self.block()
            blocks = [(gpa, self.layout.userspace_addr + gpa)]
        gpa, hva = self.random.choice(blocks)
        if not all(self.fits(slot, hva) for slot in self.slots.values()):
            return None
        self.huge.add(hva)
        return gpa, hva

    def collapse(self) -> Iterator[Operation]:
        """A huge page; empty blocks are refused."""
        if block := self.huge_block():
            yield CollapseHuge(block[0], PMD_SHIFT)

    def map_hugetlb(self) -> Iterator[Operation]:
        """Fresh memory of huge pages; what was there is gone."""
        if block := self.huge_block():
            self.protected = [
                (at, size)
                for at, size in self.protected
                if at - block[0] >= LARGE or at + size <= block[0]
            ]
            yield MapHugetlb(block[0], LARGE, PMD_SHIFT)

    def fits(self, slot: Slot, hva: int) -> bool:
        """Whether a huge page at `hva` does not make a leaf that reaches out of a slot."""
        start, end = slot.hva, slot.hva + slot.size
        apart = end <= hva or hva + LARGE <= start
        inside = start <= hva and hva + LARGE <= end
        return apart or inside or (slot.gpa ^ slot.hva) % LARGE != 0

    def keeps_huge_pages(self, slot: Slot) -> bool:
        """Whether a slot may be over the blocks that have huge pages, or may get them."""
        return all(self.fits(slot, hva) for hva in self.huge)

    def advise_huge(self) -> Iterator[Operation]:
        """Huge pages are allowed in a whole block, or forbidden in it or in one of its pages."""
        block = self.huge_block()
        if block is None:
            return
        kind = self.random.random()
        if kind < 0.1:
            yield AdviseHuge(block[0] + self.random.randrange(0, LARGE, PAGE), PAGE, on=False)
        else:
            yield AdviseHuge(block[0], LARGE, on=kind > 0.2)

    def split(self) -> Iterator[Operation]:
        """A huge page is mapped by base pages, if there is one."""
        if block := self.huge_block():
            yield SplitHuge(block[0], PMD_SHIFT)

    def protect(self) -> Iterator[Operation]:
        """mprotect, and mostly back again before long."""
        if self.protected and self.random.random() < 0.6:
            gpa, length = self.protected.pop()
            if any(slot.overlaps(gpa, length) for slot in self.all_slots()):
                yield Protect(gpa, length, writable=True)
            return
        gpa, length = self.range_of_pages()
        if self.random.random() < 0.2 and (block := self.huge_block()):
            gpa, length = block[0], LARGE
        yield Protect(gpa, length, writable=False)
        self.protected.append((gpa, length))

    def all_slots(self) -> list[Slot]:
        """Return the guest's own slot and the others."""
        return [Slot(0, self.layout.size, self.layout.userspace_addr, 0), *self.slots.values()]

    def migrate(self) -> Iterator[Operation]:
        """Other frames with the same contents, by page migration."""
        yield Migrate(*self.range_of_pages())

    def remap(self) -> Iterator[Operation]:
        """Other frames with the same contents, by mremap; they are writable."""
        gpa, length = self.range_of_pages()
        self.protected = [(at, size) for at, size in self.protected if at != gpa]
        yield Remap(gpa, length)

    def age(self) -> Iterator[Operation]:
        """The host clears R."""
        yield Age(self.page(), PAGE)

    def clear_refs(self) -> Iterator[Operation]:
        """Soft-dirty bits mostly, or a number that changes nothing or is refused."""
        yield ClearRefs(self.random.choice((4, 4, 4, 4, 1, 2, 3, 5, 0, 6, 1 << 31)))

    def fork(self) -> Iterator[Operation]:
        """A child comes and goes."""
        yield Fork()

    def destroy(self) -> Iterator[Operation]:
        """The VM ends in the middle and begins anew."""
        yield DestroyVm()
        self.slots.clear()
        self.protected.clear()
        self.huge.clear()
        self.logging = False
        self.guest.forget()
        yield CreateGuest()
        yield SetPartitionTable(self.layout.ptcr)

    def together(self) -> Iterator[Operation]:
        """Two or three hypercalls at the same time, mostly over one guest page; a discard."""
        random, guest = self.random, self.guest
        gpa = random.choice(guest.data)
        near = [p for p in sorted(guest.mapped) if guest.cached.get(p[:2]) == gpa and p[2] == 16]
        places = near or [p for p in sorted(guest.mapped) if p[2] == 16]
        places = [p for p in places if p[1] not in guest.code_addresses()]
        if not places:
            return
        calls: list[Simple] = []
        for _ in range(random.choice((2, 2, 3))):
            lpid, n_gpa, _ = random.choice(places)
            kind = random.random()
            if kind < 0.4:
                calls.append(Load(lpid, n_gpa))
            elif kind < 0.8:
                calls.append(Store(lpid, n_gpa, random.getrandbits(64)))
            else:
                calls.append(Tlbie(0, 0, 1, 0, lpid, 5, n_gpa >> 12))
        if random.random() < 0.5:
            calls.append(DiscardMemory(gpa, PAGE))
        yield Together(tuple(calls))

    def switch_mmu(self) -> Iterator[Operation]:
        """To a hash page table and back; all nested guests are gone then."""
        order = self.random.choice((None, 17, 18, 24, 47))
        yield SwitchToHpt() if order is None else AllocateHtab(order)
        if self.random.random() < 0.5:
            yield GetDirtyLog(GUEST_SLOT)
        yield SwitchToRadix()
        yield Tlbie(0, 0, 1, 2, self.guest.lpid(), 0, 0)
