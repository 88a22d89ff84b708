"""The guest hypervisor: owns its tables as bytes and lowers operations to events."""

from nestscope.decoders.words.pate import make_dw0
from nestscope.decoders.words.pde import PDE_NLB, make_pde
from nestscope.decoders.words.pte import PTE_LEAF, PTE_V
from nestscope.sim import tlbie
from nestscope.sim.constants import (
    EFFECTIVE_BITS,
    H_RPT_INVALIDATE,
    H_SET_PARTITION_TABLE,
    H_TLB_INVALIDATE,
    KVM_MEM_READONLY,
    PGDIR_SHIFT,
    PMD_SHIFT,
    PUD_SHIFT,
)
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.events import (
    Access,
    AddSlot,
    Age,
    CollapseHuge,
    CreateVm,
    DeleteSlot,
    DestroyVm,
    Discard,
    Event,
    Hcall,
    LoadCode,
    Migrate,
    MoveSlot,
    Protect,
    SetSlotFlags,
    SplitHuge,
    VmmEvent,
    Write,
)
from nestscope.sim.layout import BLR, LAYOUT, GuestLayout
from nestscope.sim.operations import (
    RWXRC,
    DiscardMemory,
    Drop,
    Fetch,
    Load,
    Map,
    Operation,
    RptInvalidate,
    SetPartitionTable,
    Store,
    Tlbie,
    Unmap,
    WriteCode,
    WriteData,
    permission_bits,
)
from nestscope.sim.pool import TablePool, clear_writes

ROOT_BITS = 13
LEVEL_SHIFTS = (PGDIR_SHIFT, PUD_SHIFT, PMD_SHIFT)
PAYLOAD_SHIFT = 16


class Guest:
    """The tables of one guest hypervisor.

    `words` holds every doubleword of its tables that is not 0, by guest real
    address, in host order: the same bytes lie big-endian in guest memory.
    `roots` are the page directories of the nested guests by l1_lpid, `slots` gpa
    and size of the memslots beside the guest's own.
    """

    def __init__(self, layout: GuestLayout = LAYOUT) -> None:
        self.layout = layout
        self.words: dict[int, int] = {}
        self.roots: dict[int, int] = {}
        self.slots: dict[int, tuple[int, int]] = {}
        self.root_pool = TablePool(layout.roots, layout.tables)
        self.table_pool = TablePool(layout.tables, layout.payload)

    def setup(self) -> list[Event]:
        """Return the events that make the VM; the guest then has no partition table yet."""
        layout = self.layout
        return [
            CreateVm(),
            AddSlot(layout.slot, 0, layout.size, layout.userspace_addr),
            LoadCode(),
        ]

    def lower(self, operation: Operation) -> list[Event]:
        """Return the events of one operation and update the guest's own tables.

        Raises:
            GuestLayoutError: if the guest has no room for it, or it would
                overwrite the guest itself.
        """
        match operation:
            case Map():
                return self._map(operation)
            case Unmap(l1_lpid, n_gpa):
                return self._unmap(l1_lpid, n_gpa)
            case Load(l1_lpid, n_gpa):
                return [Access(l1_lpid, "load", n_gpa)]
            case Store(l1_lpid, n_gpa, value):
                return [Access(l1_lpid, "store", n_gpa, value)]
            case Fetch(l1_lpid, n_gpa):
                return [Access(l1_lpid, "fetch", n_gpa)]
            case SetPartitionTable(ptcr):
                return [Hcall(H_SET_PARTITION_TABLE, (ptcr,))]
            case Tlbie():
                return [tlbie_hcall(operation)]
            case RptInvalidate(lpid, target, kind, pages, start, end):
                return [Hcall(H_RPT_INVALIDATE, (lpid, target, kind, pages, start, end))]
            case Drop(l1_lpid):
                return self._drop(l1_lpid)
        return self._vmm(operation)

    def _vmm(self, operation: WriteData | WriteCode | DiscardMemory | VmmEvent) -> list[Event]:
        """Return the events of what the VMM does beside the guest."""
        match operation:
            case WriteData(gpa, value):
                self._require_data(gpa, 8)
                return [Write(gpa, value.to_bytes(8, "little"))]
            case WriteCode(gpa):
                self._require_data(gpa, len(BLR))
                return [Write(gpa, BLR)]
            case DiscardMemory(gpa, length):
                self._require_disposable(gpa, length)
                return [Discard(gpa, length)]
            case Migrate(gpa, length) | Protect(gpa, length) | Age(gpa, length):
                self._require_data(gpa, length)
            case CollapseHuge(gpa, shift):
                self._require_data(gpa, 1 << shift)
            case SplitHuge(gpa):
                self._require_data(gpa, 1)
            case AddSlot() | DeleteSlot() | MoveSlot():
                self._change_slots(operation)
            case SetSlotFlags(slot, flags):
                if slot == self.layout.slot and flags & KVM_MEM_READONLY:
                    raise GuestLayoutError(f"slot {slot} holds the guest itself: it stays writable")
            case DestroyVm():
                self._forget()
        return [operation]

    def _change_slots(self, operation: AddSlot | DeleteSlot | MoveSlot) -> None:
        """Keep track of the slots beside the guest's own."""
        slot = operation.slot
        if slot == self.layout.slot:
            raise GuestLayoutError(f"slot {slot} holds the guest itself: it stays as it is")
        if isinstance(operation, DeleteSlot):
            self.slots.pop(slot, None)
        elif operation.gpa < self.layout.size:
            raise GuestLayoutError(f"slot {slot} at {operation.gpa:#x}: the guest itself is there")
        elif isinstance(operation, AddSlot):
            self.slots[slot] = operation.gpa, operation.size
        elif slot in self.slots:
            self.slots[slot] = operation.gpa, self.slots[slot][1]

    def _require_data(self, gpa: int, length: int) -> None:
        """Refuse to let the VMM change what the guest or its tables live in."""
        areas = [(self.layout.data, self.layout.size - self.layout.data), *self.slots.values()]
        if not any(start <= gpa and gpa + length <= start + size for start, size in areas):
            raise GuestLayoutError(
                f"{gpa:#x} (+{length:#x}) is not in the guest's data area "
                f"{self.layout.data:#x} to {self.layout.size:#x} nor in a further slot"
            )

    def _require_disposable(self, gpa: int, length: int) -> None:
        """Allow data, and the payload's page: nested guests can do without, the guest not."""
        payload = self.layout.payload
        if not (payload <= gpa and gpa + length <= payload + (1 << PAYLOAD_SHIFT)):
            self._require_data(gpa, length)

    def _forget(self) -> None:
        """Begin again: with the VM its memory is gone."""
        self.words.clear()
        self.roots.clear()
        self.slots.clear()
        self.root_pool = TablePool(self.layout.roots, self.layout.tables)
        self.table_pool = TablePool(self.layout.tables, self.layout.payload)

    def _map(self, operation: Map) -> list[Event]:
        if operation.shift not in (12, 16, PMD_SHIFT, PUD_SHIFT):
            raise GuestLayoutError(f"2^{operation.shift} bytes is not a page size")
        events = self._enter_partition(operation.l1_lpid)
        page_mask = (1 << operation.shift) - 1
        if (operation.n_gpa | operation.gpa) & page_mask or operation.n_gpa > EFFECTIVE_BITS:
            raise GuestLayoutError(f"{operation} is not aligned to its page size")
        leaf = PTE_LEAF | operation.gpa | operation.bits
        return events + self._set_leaf(operation.l1_lpid, operation.n_gpa, operation.shift, leaf)

    def _enter_partition(self, l1_lpid: int) -> list[Event]:
        """Write the partition table entry of a new nested guest and map the payload."""
        if l1_lpid in self.roots:
            return []
        entry = self.layout.partition_table + 16 * l1_lpid
        if entry >= self.layout.partition_table + self.layout.partition_table_size:
            raise GuestLayoutError(f"the partition table has no entry for LPID {l1_lpid}")
        root = self.root_pool.take(1 << ROOT_BITS + 3)
        self.roots[l1_lpid] = root
        events = [self._write_word(entry, make_dw0(root, ROOT_BITS))]
        payload = PTE_LEAF | self.layout.payload | permission_bits(RWXRC)
        return events + self._set_leaf(l1_lpid, 0, PAYLOAD_SHIFT, payload)

    def _set_leaf(self, l1_lpid: int, n_gpa: int, shift: int, leaf: int) -> list[Event]:
        """Walk to the level of `shift`, making tables; replace whatever is in the way."""
        events: list[Event] = []
        table = self.roots[l1_lpid]
        bits = ROOT_BITS
        for level_shift in LEVEL_SHIFTS:
            at = table + (n_gpa >> level_shift & (1 << bits) - 1) * 8
            if level_shift == shift:
                break
            below = level_shift - shift if level_shift == PMD_SHIFT else 9
            old = self.words.get(at, 0)
            if old & PTE_LEAF != PTE_V or (old & 0x1F) != below:
                events += self._free_below(at)
                pde = make_pde(self.table_pool.take(8 << below), below)
                events.append(self._write_word(at, pde))
            table, bits = self.words[at] & PDE_NLB, below
        else:
            at = table + (n_gpa >> shift & (1 << bits) - 1) * 8
        return [*events, *self._free_below(at), self._write_word(at, leaf)]

    def _find_leaf(self, l1_lpid: int, n_gpa: int) -> int | None:
        """Return the address of the leaf's word that covers `n_gpa`, None without one."""
        table = self.roots.get(l1_lpid)
        bits, shift = ROOT_BITS, 52
        while table is not None:
            shift -= bits
            at = table + (n_gpa >> shift & (1 << bits) - 1) * 8
            word = self.words.get(at, 0)
            if word & PTE_LEAF == PTE_LEAF:
                return at
            if not word & PTE_V:
                return None
            table, bits = word & PDE_NLB, word & 0x1F
        return None

    def leaf(self, l1_lpid: int, n_gpa: int) -> int:
        """Return the PTE that the guest's own tree holds for `n_gpa`, 0 without one."""
        at = self._find_leaf(l1_lpid, n_gpa)
        return 0 if at is None else self.words[at]

    def _unmap(self, l1_lpid: int, n_gpa: int) -> list[Event]:
        at = self._find_leaf(l1_lpid, n_gpa)
        return [] if at is None else [self._write_word(at, 0)]

    def _drop(self, l1_lpid: int) -> list[Event]:
        """Clear the entry, invalidate all caches of it, then take the tables back."""
        entry = self.layout.partition_table + 16 * l1_lpid
        events: list[Event] = []
        if self.words.get(entry):
            events.append(self._write_word(entry, 0))
        events.append(tlbie_hcall(Tlbie(2, 0, 1, 2, l1_lpid, 0, 0)))
        root = self.roots.pop(l1_lpid, None)
        if root is not None:
            events += self._free_table(root, ROOT_BITS, self.root_pool)
        return events

    def _free_below(self, at: int) -> list[Event]:
        """Free the table that the word at `at` points to, if it points to one."""
        word = self.words.get(at, 0)
        if word & PTE_LEAF != PTE_V:
            return []
        # The entry goes first: no table that is reachable is ever half empty.
        cleared = self._write_word(at, 0)
        return [cleared, *self._free_table(word & PDE_NLB, word & 0x1F, self.table_pool)]

    def _free_table(self, table: int, bits: int, pool: TablePool) -> list[Event]:
        """Free a table and all below it; zeros are written where it held words."""
        events: list[Event] = []
        size = 8 << bits
        held = [at for at in self.words if table <= at < table + size]
        for at in held:
            word = self.words.pop(at)
            if word & PTE_LEAF == PTE_V:
                events += self._free_table(word & PDE_NLB, word & 0x1F, self.table_pool)
        pool.give_back(table, size)
        return events + clear_writes(held)

    def _write_word(self, at: int, word: int) -> Write:
        """Store a doubleword of the tables."""
        if word:
            self.words[at] = word
        else:
            self.words.pop(at, None)
        return Write(at, word.to_bytes(8, "big"))


def tlbie_hcall(operation: Tlbie) -> Hcall:
    """Return the hypercall of a tlbie."""
    return Hcall(H_TLB_INVALIDATE, tlbie.encode(operation))
