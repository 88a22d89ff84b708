"""The trees of a guest hypervisor as it wrote them: partition table, tables, leaves."""

from nestscope.decoders.words.pate import make_dw0
from nestscope.decoders.words.pde import make_pde
from nestscope.decoders.words.pte import PTE_LEAF, PTE_V
from nestscope.sim.constants import PGDIR_SHIFT, PMD_SHIFT, PUD_SHIFT
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.events import Event, Write
from nestscope.sim.layout import GuestLayout
from nestscope.sim.operations import RWXRC, permission_bits
from nestscope.sim.pool import TablePool, clear_writes

ROOT_BITS = 13
LEVEL_SHIFTS = (PGDIR_SHIFT, PUD_SHIFT, PMD_SHIFT)
PAYLOAD_SHIFT = 16
WORD = 8


class GuestTables:
    """What the guest believes to lie in its tables.

    `words` holds every doubleword that is not 0, by guest real address, in host order:
    the same bytes lie big-endian in guest memory. `roots` are the page directories of
    the nested guests by l1_lpid. `links` are the tables that the guest itself made:
    address of the entry that named them, to table and log2 of its entries. A raw write,
    or a nested guest that stores into a table, may have broken such a link: the guest
    then makes a new table where it needs one.
    """

    def __init__(self, layout: GuestLayout) -> None:
        self.layout = layout
        self.words: dict[int, int] = {}
        self.roots: dict[int, int] = {}
        self.links: dict[int, tuple[int, int]] = {}
        self.strange: set[int] = set()
        self.root_pool = TablePool(layout.roots, layout.tables)
        self.table_pool = TablePool(layout.tables, layout.payload)

    def entry(self, l1_lpid: int) -> int:
        """Return the address of a nested guest's partition table entry.

        Raises:
            GuestLayoutError: if the partition table has none for this LPID.
        """
        entry = self.layout.partition_table + 16 * l1_lpid
        if entry >= self.layout.partition_table + self.layout.partition_table_size:
            raise GuestLayoutError(f"the partition table has no entry for LPID {l1_lpid}")
        return entry

    def enter_partition(self, l1_lpid: int) -> list[Event]:
        """Write the partition table entry of a new nested guest and map the payload."""
        if l1_lpid in self.roots:
            return []
        entry = self.entry(l1_lpid)
        root, events = self.take(self.root_pool, ROOT_BITS)
        self.roots[l1_lpid] = root
        events.append(self.write_word(entry, make_dw0(root, ROOT_BITS)))
        payload = PTE_LEAF | self.layout.payload | permission_bits(RWXRC)
        return events + self.set_leaf(l1_lpid, 0, PAYLOAD_SHIFT, payload)

    def leave_partition(self, l1_lpid: int) -> list[Event]:
        """Clear the partition table entry of a nested guest; its tables stay."""
        at = self.layout.partition_table + 16 * l1_lpid
        is_one = 16 * l1_lpid < self.layout.partition_table_size
        return [self.write_word(at, 0)] if is_one and self.words.get(at) else []

    def free_tree(self, l1_lpid: int) -> list[Event]:
        """Take the tables of a nested guest back."""
        root = self.roots.pop(l1_lpid, None)
        return [] if root is None else self.free_table(root, ROOT_BITS, self.root_pool)

    def set_leaf(self, l1_lpid: int, n_gpa: int, shift: int, leaf: int) -> list[Event]:
        """Walk to the level of `shift`, making tables; replace whatever is in the way."""
        events: list[Event] = []
        table = self.roots[l1_lpid]
        bits = ROOT_BITS
        for level_shift in LEVEL_SHIFTS:
            at = table + (n_gpa >> level_shift & (1 << bits) - 1) * WORD
            if level_shift == shift:
                break
            below = level_shift - shift if level_shift == PMD_SHIFT else 9
            if not self.is_linked(at, below):
                events += self.free_below(at)
                made, clearing = self.take(self.table_pool, below)
                events += clearing
                self.links[at] = made, below
                events.append(self.write_word(at, make_pde(made, below)))
            table, bits = self.links[at]
        else:
            at = table + (n_gpa >> shift & (1 << bits) - 1) * WORD
        return [*events, *self.free_below(at), self.write_word(at, leaf)]

    def is_linked(self, at: int, bits: int) -> bool:
        """Whether the entry at `at` names a table of 2^bits entries that the guest made."""
        link = self.links.get(at)
        return link is not None and link[1] == bits and self.words.get(at) == make_pde(*link)

    def find_leaf(self, l1_lpid: int, n_gpa: int) -> int | None:
        """Return the address of the leaf's word that covers `n_gpa`, None without one."""
        table = self.roots.get(l1_lpid)
        bits, shift = ROOT_BITS, 52
        while table is not None:
            shift -= bits
            at = table + (n_gpa >> shift & (1 << bits) - 1) * WORD
            word = self.words.get(at, 0)
            if word & PTE_LEAF == PTE_LEAF:
                return at
            link = self.links.get(at)
            if not word & PTE_V or link is None:
                return None
            table, bits = link
        return None

    def take(self, pool: TablePool, bits: int) -> tuple[int, list[Event]]:
        """Return a table of 2^bits entries, and the writes that clear what lies there.

        Raises:
            GuestLayoutError: if the guest has no room for it.
        """
        size = WORD << bits
        table = pool.take(size)
        held = [at for at in self.strange if table <= at < table + size]
        for at in held:
            self.note(at, 0)
        return table, clear_writes(held)

    def free_below(self, at: int) -> list[Event]:
        """Free the table that the guest hung into the entry at `at`, if there is one."""
        link = self.links.pop(at, None)
        if link is None:
            return []
        # The entry goes first: no table that is reachable is ever half empty.
        cleared = self.write_word(at, 0)
        return [cleared, *self.free_table(*link, self.table_pool)]

    def free_table(self, table: int, bits: int, pool: TablePool) -> list[Event]:
        """Free a table and all that hangs below it; zeros are written where it held words."""
        events: list[Event] = []
        size = WORD << bits
        held = [at for at in self.words if table <= at < table + size]
        for at in held:
            self.note(at, 0)
        for at in [at for at in self.links if table <= at < table + size]:
            events += self.free_table(*self.links.pop(at), self.table_pool)
        pool.give_back(table, size)
        return events + clear_writes(held)

    def write_word(self, at: int, word: int) -> Write:
        """Store a doubleword of the tables."""
        self.note(at, word)
        return Write(at, word.to_bytes(WORD, "big"))

    def write_strange(self, at: int, word: int) -> Write:
        """Store a doubleword anywhere, whatever the tables are."""
        write = self.write_word(at, word)
        if word:
            self.strange.add(at)
        return write

    def note(self, at: int, word: int) -> None:
        """Remember what a doubleword is now."""
        self.strange.discard(at)
        if word:
            self.words[at] = word
        else:
            self.words.pop(at, None)

    def forget(self, gpa: int, length: int) -> None:
        """Remember that a range reads as zeros: the host took its pages."""
        for at in [at for at in self.words if gpa <= at < gpa + length]:
            self.note(at, 0)
