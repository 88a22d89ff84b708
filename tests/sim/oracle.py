"""A naive account of who maps what: plain sets and tuples, no words, no masks, no locks.

Written from the rules of the mechanism, not from the model. It keeps `entries`
(gpa of the host leaf, l1_lpid, n_gpa), `shadow` leaves and `host` leaves, and
finds everything by looking through all of it. Hardware sets R and C, and
permissions that include writing include reading.
"""

from dataclasses import dataclass, field
from itertools import count

M2, G1 = 1 << 21, 1 << 30
ZERO = "the zero page"


@dataclass
class Leaf:
    """`size` bytes at `start`, backed by the host page `page`, with these rights."""

    start: int
    size: int
    rights: set[str]
    page: object

    def meets(self, start: int, end: int) -> bool:
        return self.start < end and start < self.start + self.size


@dataclass(frozen=True)
class Part:
    """A page of a huge page (`huge` is its name) that is mapped by base pages."""

    huge: int
    offset: int


@dataclass
class Slot:
    gpa: int
    size: int
    logs: bool = False


@dataclass
class Oracle:
    base: int
    slots: dict[int, Slot] = field(default_factory=dict)
    guest: dict[int, list[Leaf]] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    host: list[Leaf] = field(default_factory=list)
    shadow: dict[int, list[Leaf]] = field(default_factory=dict)
    entries: set[tuple[int, int, int]] = field(default_factory=set)
    backing: list[Leaf] = field(default_factory=list)
    names: "count[int]" = field(default_factory=count)

    # What the VMM has behind guest memory: `page` is a name or the zero page.

    def behind(self, gpa: int) -> Leaf | None:
        return next((leaf for leaf in self.backing if leaf.meets(gpa, gpa + 1)), None)

    def back(self, gpa: int, size: int, page: object) -> Leaf:
        start = gpa - gpa % size if size == self.base else gpa
        leaf = Leaf(start, size, set(), page)
        self.backing.append(leaf)
        return leaf

    def private(self, gpa: int) -> None:
        """Somebody writes: an absent page appears, the zero page is copied."""
        held = self.behind(gpa)
        if held is not None and held.page is not ZERO:
            return
        if held is not None:
            self.invalidate(held.start, held.start + held.size)
            self.backing.remove(held)
        self.back(gpa, self.base, next(self.names))

    def gone(self, start: int, end: int) -> None:
        """The host takes a range back; a huge page that is partly in it is split."""
        self.invalidate(start, end)
        for held in [leaf for leaf in self.backing if leaf.meets(start, end)]:
            self.backing.remove(held)
            if held.start < start or held.start + held.size > end:
                self.invalidate(held.start, held.start + held.size)
                self.take_apart(held)
                self.backing = [leaf for leaf in self.backing if not leaf.meets(start, end)]

    def moved(self, start: int, end: int) -> None:
        """The host moves private pages elsewhere, one by one; the zero page stays.

        Huge ones are split before, and what is left of a huge page comes apart as a whole.
        """
        for held in list(self.backing):
            if held.meets(start, end) and held.page is not ZERO and held.size > self.base:
                self.split(held.start)
        for held in self.backing:
            if held.meets(start, end) and held.page is not ZERO:
                if isinstance(held.page, Part):
                    self.come_apart(held.page.huge, held.start - held.start % M2)
                self.invalidate(held.start, held.start + held.size)
                held.page = next(self.names)

    def come_apart(self, huge: int, start: int) -> None:
        """The parts of the huge page that was at `start` become pages of their own."""
        self.invalidate(start, start + M2)
        for held in self.backing:
            if isinstance(held.page, Part) and held.page.huge == huge:
                held.page = next(self.names)

    def collapsed(self, start: int, size: int) -> None:
        self.invalidate(start, start + size)
        self.backing = [leaf for leaf in self.backing if not leaf.meets(start, start + size)]
        self.back(start, size, next(self.names))

    def split(self, gpa: int) -> None:
        held = self.behind(gpa)
        assert held is not None
        self.invalidate(held.start, held.start + held.size)
        self.backing.remove(held)
        self.take_apart(held)

    def take_apart(self, held: Leaf) -> None:
        """Put base pages in the place of a huge page: still parts of one."""
        huge = next(self.names)
        for at in range(held.start, held.start + held.size, self.base):
            self.back(at, self.base, Part(huge, at - held.start))

    # The mechanism.

    def slot_of(self, gpa: int) -> Slot | None:
        return next((s for s in self.slots.values() if s.gpa <= gpa < s.gpa + s.size), None)

    def invalidate(self, start: int, end: int) -> None:
        """Host leaves of a range go, with every chain under them and what it leads to."""
        for leaf in [leaf for leaf in self.host if leaf.meets(start, end)]:
            self.host.remove(leaf)
            for entry in sorted(self.entries):
                gpa, lpid, n_gpa = entry
                if leaf.start <= gpa < leaf.start + leaf.size:
                    self.entries.discard(entry)
                    if lpid in self.alive:
                        self.shadow[lpid] = [
                            shadow
                            for shadow in self.shadow.get(lpid, [])
                            if not (shadow.meets(n_gpa, n_gpa + 1) and shadow.page == leaf.page)
                        ]

    def tlbie(self, lpid: int, start: int, end: int) -> None:
        if lpid in self.alive:
            self.shadow[lpid] = [s for s in self.shadow[lpid] if not s.meets(start, end)]

    def enter(self, lpid: int, kind: str, address: int) -> bool:
        """A nested guest fetches its payload at 0, then makes its access; True if it could."""
        if lpid not in self.alive:
            self.alive.add(lpid)
            self.shadow[lpid] = []
        return self.touch(lpid, "x", 0) and self.touch(lpid, kind, address)

    def touch(self, lpid: int, right: str, address: int) -> bool:
        while True:
            found = next((s for s in self.shadow[lpid] if s.meets(address, address + 1)), None)
            if found is not None and right in found.rights:
                return True
            leaves = self.guest.get(lpid, [])
            mapped = next((g for g in leaves if g.meets(address, address + 1)), None)
            if mapped is None or right not in mapped.rights:
                if found is not None and right != "x":
                    self.shadow[lpid].remove(found)
                return False
            if mapped.size < self.base:
                return False
            assert isinstance(mapped.page, int)
            self.fill(lpid, right, address, mapped, mapped.page + address - mapped.start)

    def fill(self, lpid: int, right: str, address: int, mapped: Leaf, gpa: int) -> None:
        """Make the missing leaves: first the host's, then the nested guest's."""
        host = next((h for h in self.host if h.meets(gpa, gpa + 1)), None)
        if host is None or right not in host.rights:
            host = self.host_leaf(right, gpa)
            if host is None:
                return
        size = min(host.size, mapped.size)
        if host.size > mapped.size:
            size = M2 if mapped.size > M2 else self.base
        start = address - address % size
        rights = mapped.rights & host.rights
        same = [s for s in self.shadow[lpid] if (s.start, s.size) == (start, size)]
        if same:
            same[0].rights |= rights
            return
        self.tlbie(lpid, start, start + size)
        self.shadow[lpid].append(Leaf(start, size, rights, host.page))
        self.entries.add((host.start, lpid, start))

    def host_leaf(self, right: str, gpa: int) -> Leaf | None:
        """A new host leaf; None if copying the zero page makes the fault come again."""
        held = self.behind(gpa)
        if right == "w":
            self.private(gpa)
            if held is not None and held.page is ZERO:
                return None
        elif held is None:
            self.back(gpa, self.base, ZERO)
        held = self.behind(gpa)
        slot = self.slot_of(gpa)
        assert held is not None
        assert slot is not None
        rights = {"r", "x"} if held.page is ZERO else {"r", "w", "x"}
        if slot.logs and held.size > self.base:
            at = gpa - gpa % self.base
            leaf = Leaf(at, self.base, rights, (held.page, at))
        else:
            leaf = Leaf(held.start, held.size, rights, held.page)
        self.host.append(leaf)
        return leaf

    # Slots.

    def add_slot(self, number: int, gpa: int, size: int) -> None:
        self.slots[number] = Slot(gpa, size)

    def flush(self, slot: Slot) -> None:
        self.invalidate(slot.gpa, slot.gpa + slot.size)

    def delete_slot(self, number: int) -> None:
        slot = self.slots.pop(number)
        self.flush(slot)
        end = slot.gpa + slot.size
        self.entries = {e for e in self.entries if not slot.gpa <= e[0] < end}

    def move_slot(self, number: int, gpa: int) -> None:
        """Entries without a host leaf move along with the array, memory with the slot."""
        slot = self.slots[number]
        self.flush(slot)
        by, end = gpa - slot.gpa, slot.gpa + slot.size
        self.entries = {
            (at + by, lpid, n_gpa) if slot.gpa <= at < end else (at, lpid, n_gpa)
            for at, lpid, n_gpa in self.entries
        }
        for held in self.backing:
            if slot.gpa <= held.start < end:
                held.start += by
        slot.gpa = gpa

    def set_logging(self, number: int, *, logs: bool) -> None:
        slot = self.slots[number]
        if slot.logs != logs:
            self.flush(slot)
            slot.logs = logs

    # Nested guests.

    def map(self, lpid: int, n_gpa: int, gpa: int, size: int, rights: set[str]) -> None:
        """Replaces whatever is in the way; a larger leaf is not cut into pieces."""
        leaves = [g for g in self.guest.get(lpid, []) if not g.meets(n_gpa, n_gpa + size)]
        self.guest[lpid] = [*leaves, Leaf(n_gpa, size, rights, gpa)]

    def unmap(self, lpid: int, n_gpa: int) -> None:
        if lpid in self.guest:
            leaves = self.guest[lpid]
            self.guest[lpid] = [g for g in leaves if not g.meets(n_gpa, n_gpa + 1)]

    def empty(self, lpid: int) -> None:
        if lpid in self.alive:
            self.shadow[lpid] = []

    def drop(self, lpid: int) -> None:
        self.guest.pop(lpid, None)
        self.shadow.pop(lpid, None)
        self.alive.discard(lpid)
