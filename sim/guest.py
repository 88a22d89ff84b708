"""The guest hypervisor: lowers operations to events."""

import copy
from dataclasses import replace

from nestscope.decoders.words.pte import PTE_LEAF, PTE_RPN
from nestscope.sim import tlbie
from nestscope.sim.constants import (
    EFFECTIVE_BITS,
    H_RPT_INVALIDATE,
    H_SET_PARTITION_TABLE,
    H_TLB_INVALIDATE,
    KVM_MEM_READONLY,
    PMD_SHIFT,
    PUD_SHIFT,
)
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.events import (
    Access,
    AddSlot,
    AdviseHuge,
    Age,
    AllocateHtab,
    CollapseHuge,
    CreateVm,
    DeleteSlot,
    DestroyVm,
    Discard,
    Event,
    Hcall,
    LoadCode,
    MapHugetlb,
    Migrate,
    MoveSlot,
    Protect,
    Remap,
    SetSlotFlags,
    SplitHuge,
    SwitchToHpt,
    SwitchToRadix,
    VmmEvent,
    Write,
)
from nestscope.sim.guest_tables import GuestTables
from nestscope.sim.layout import BLR, LAYOUT, VCPUS, GuestLayout
from nestscope.sim.operations import (
    CreateGuest,
    DiscardMemory,
    Drop,
    Fetch,
    Load,
    Map,
    Operation,
    Order,
    RawHcall,
    RptInvalidate,
    SetPartitionTable,
    Simple,
    Store,
    Tlbie,
    Together,
    Unmap,
    WriteCode,
    WriteData,
    WriteWord,
)
from nestscope.sim.order import vcpus_of

PAYLOAD_SHIFT = 16
UNMATCHED = (CreateVm, LoadCode, DestroyVm, SwitchToHpt, SwitchToRadix, AllocateHtab)
"""Events that need all vCPUs to stand still."""
CODE_SIZE = 1 << 12
"""What the stub and the payload take of their pages; the rest is memory like any other."""


class Guest:
    """One guest hypervisor: what it does to its memory and asks of its host."""

    def __init__(self, layout: GuestLayout = LAYOUT) -> None:
        self.layout = layout
        self.tables = GuestTables(layout)
        self._alive = True

    @property
    def words(self) -> dict[int, int]:
        """Every doubleword that the guest wrote and that is not 0, by guest real address."""
        return self.tables.words

    @property
    def roots(self) -> dict[int, int]:
        """Page directories of the nested guests, by l1_lpid."""
        return self.tables.roots

    def setup(self) -> list[Event]:
        """Return the events that make the VM; the guest then has no partition table yet."""
        layout = self.layout
        return [
            CreateVm(),
            AddSlot(layout.slot, 0, layout.size, layout.userspace_addr),
            LoadCode(),
        ]

    def lower(self, operation: Operation) -> list[Event]:  # noqa: PLR0912  one an operation
        """Return the events of one operation and update the guest's own tables.

        Raises:
            GuestLayoutError: if the guest has no room for it, or it would
                overwrite the guest itself, or there is no VM (or one already).
        """
        if self._alive == isinstance(operation, CreateGuest):
            raise GuestLayoutError("there is a VM already" if self._alive else "there is no VM")
        match operation:
            case Map():
                return self._map(operation)
            case Unmap(l1_lpid, n_gpa):
                at = self.tables.find_leaf(l1_lpid, n_gpa)
                return [] if at is None else [self.tables.write_word(at, 0)]
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
            case RawHcall(number, args):
                return [Hcall(number, args)]
            case Drop(l1_lpid):
                return self._drop(l1_lpid)
            case CreateGuest():
                self._alive = True
                return self.setup()
            case Together(operations):
                return self._together(operations)
            case WriteWord(gpa, value):
                return [self._write_anywhere(gpa, value)]
            case Order():
                return [event for part in self.lower_order(operation) for event in part]
        return self._vmm(operation)

    def _vmm(self, operation: WriteData | WriteCode | DiscardMemory | VmmEvent) -> list[Event]:
        """Return the events of what the VMM does beside the guest."""
        match operation:
            case WriteData(gpa, value):
                swapped = int.from_bytes(value.to_bytes(8, "little"), "big")
                return [self._write_anywhere(gpa, swapped)]
            case WriteCode(gpa):
                self._require_memory(gpa, len(BLR))
                return [Write(gpa, BLR)]
            case DiscardMemory(gpa, length):
                self._require_disposable(gpa, length)
                self.tables.forget(gpa, length)
                return [Discard(gpa, length)]
            case Migrate(gpa, length) | Remap(gpa, length) | Protect(gpa, length):
                self._require_data(gpa, length)
            case Age(gpa, length) | AdviseHuge(gpa, length):
                self._require_data(gpa, length)
            case MapHugetlb(gpa, length):
                self._require_disposable(gpa, length)
                self._require_data(gpa, length)
                self.tables.forget(gpa, length)
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

    def _together(self, operations: tuple[Simple, ...]) -> list[Event]:
        """Give each hypercall a vCPU of its own; at most one event is the VMM's."""
        before = copy.deepcopy((self.tables, self._alive))
        try:
            return self._at_the_same_time(operations)
        except GuestLayoutError:
            self.tables, self._alive = before  # none of them is done
            raise

    def _at_the_same_time(self, operations: tuple[Simple, ...]) -> list[Event]:
        events = [event for operation in operations for event in self.lower(operation)]
        calls = [event for event in events if isinstance(event, Access | Hcall)]
        if len(events) != len(operations) or not calls or len(calls) > VCPUS:
            raise GuestLayoutError(f"together go 1 to {VCPUS} hypercalls, each one event")
        if len(events) > len(calls) + 1 or any(isinstance(e, UNMATCHED) for e in events):
            raise GuestLayoutError("together with hypercalls goes one change of host memory")
        numbered = iter(range(VCPUS))
        return [
            replace(event, vcpu=next(numbered)) if isinstance(event, Access | Hcall) else event
            for event in events
        ]

    def lower_order(self, order: Order) -> list[list[Event]]:
        """Return the events of each operation of an order, hypercalls with their vCPUs."""
        lowered = []
        vcpus = vcpus_of(order.turns)
        if max(vcpus) >= VCPUS:
            raise GuestLayoutError(f"at most {VCPUS - 1} operations of an order can be held")
        for operation, vcpu in zip(order.operations, vcpus, strict=True):
            events = self.lower(operation)
            if any(isinstance(event, UNMATCHED) for event in events):
                raise GuestLayoutError(f"{operation} needs all vCPUs to stand still")
            lowered.append(
                [replace(e, vcpu=vcpu) if isinstance(e, Access | Hcall) else e for e in events]
            )
        return lowered

    def _change_slots(self, operation: AddSlot | DeleteSlot | MoveSlot) -> None:
        """Refuse changes of the guest's own slot, and others at its addresses or memory."""
        slot = operation.slot
        if slot == self.layout.slot:
            raise GuestLayoutError(f"slot {slot} holds the guest itself: it stays as it is")
        if not isinstance(operation, DeleteSlot) and operation.gpa < self.layout.size:
            raise GuestLayoutError(f"slot {slot} at {operation.gpa:#x}: the guest itself is there")
        if isinstance(operation, AddSlot):
            self._require_own_memory(operation)

    def _require_own_memory(self, new: AddSlot) -> None:
        """Refuse a slot over the memory that the guest or its tables live in."""
        start = self.layout.userspace_addr
        if new.userspace_addr < start + self.layout.data and start < new.userspace_addr + new.size:
            raise GuestLayoutError(f"slot {new.slot} over the memory of the guest itself")

    def _require_data(self, gpa: int, length: int) -> None:
        """Refuse to let the VMM change what the guest or its tables live in."""
        if gpa < self.layout.data or gpa < self.layout.size < gpa + length:
            raise GuestLayoutError(
                f"{gpa:#x} (+{length:#x}) is not in the guest's data area "
                f"{self.layout.data:#x} to {self.layout.size:#x} nor in a further slot"
            )

    def _write_anywhere(self, gpa: int, word: int) -> Write:
        """Write a doubleword (as it reads big-endian) where no code is."""
        if gpa & 7:
            raise GuestLayoutError(f"{gpa:#x} is not the address of a doubleword")
        self._require_memory(gpa, 8)
        return self.tables.write_strange(gpa, word)

    def _require_memory(self, gpa: int, length: int) -> None:
        """Refuse what is not memory, and the code that does what an event asks for."""
        layout = self.layout
        if gpa < layout.size < gpa + length:
            raise GuestLayoutError(f"{gpa:#x} (+{length:#x}) is no memory of the guest")
        for code in (layout.code, layout.payload):
            if gpa < code + CODE_SIZE and code < gpa + length:
                raise GuestLayoutError(f"{gpa:#x} (+{length:#x}) has the code of the guest in it")

    def _require_disposable(self, gpa: int, length: int) -> None:
        """Allow all memory but the stub's page: nested guests can do without the payload."""
        code = self.layout.code
        if gpa < self.layout.size < gpa + length:
            raise GuestLayoutError(f"{gpa:#x} (+{length:#x}) is no memory of the guest")
        if gpa < code + (1 << PAYLOAD_SHIFT) and code < gpa + length:
            raise GuestLayoutError(f"{gpa:#x} (+{length:#x}): the guest itself is there")

    def _forget(self) -> None:
        """Begin again: with the VM its memory is gone."""
        self._alive = False
        self.tables = GuestTables(self.layout)

    def _map(self, operation: Map) -> list[Event]:
        if operation.shift not in (12, 16, PMD_SHIFT, PUD_SHIFT):
            raise GuestLayoutError(f"2^{operation.shift} bytes is not a page size")
        page_mask = (1 << operation.shift) - 1
        if (operation.n_gpa | operation.gpa) & page_mask or operation.n_gpa > EFFECTIVE_BITS:
            raise GuestLayoutError(f"{operation} is not aligned to its page size")
        if operation.gpa & ~PTE_RPN:
            raise GuestLayoutError(f"{operation.gpa:#x} does not fit into a leaf")
        events = self.tables.enter_partition(operation.l1_lpid)
        leaf = PTE_LEAF | operation.gpa | operation.bits
        lpid, n_gpa, shift = operation.l1_lpid, operation.n_gpa, operation.shift
        return events + self.tables.set_leaf(lpid, n_gpa, shift, leaf)

    def leaf(self, l1_lpid: int, n_gpa: int) -> int:
        """Return the PTE that the guest's own tree holds for `n_gpa`, 0 without one."""
        at = self.tables.find_leaf(l1_lpid, n_gpa)
        return 0 if at is None else self.words[at]

    def _drop(self, l1_lpid: int) -> list[Event]:
        """Clear the entry, invalidate all caches of it, then take the tables back."""
        cleared = self.tables.leave_partition(l1_lpid)
        retired = tlbie_hcall(Tlbie(2, 0, 1, 2, l1_lpid, 0, 0))
        return [*cleared, retired, *self.tables.free_tree(l1_lpid)]


def tlbie_hcall(operation: Tlbie) -> Hcall:
    """Return the hypercall of a tlbie."""
    return Hcall(H_TLB_INVALIDATE, tlbie.encode(operation))
