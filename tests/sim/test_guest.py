"""The guest's tables: what lies in guest memory is what an ISA walk finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim import events as ev
from nestscope.sim import operations as op
from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.events import Access, AddSlot, CreateVm, Event, Hcall, LoadCode, Write
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT

BITS = {12: (13, 9, 9, 9), 16: (13, 9, 9, 5), 21: (13, 9, 9), 30: (13, 9)}


class Bytes:
    """Guest memory by doublewords, and a walk written from the ISA's figures."""

    def __init__(self) -> None:
        self.memory: dict[int, bytes] = {}

    def apply(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Write):
                for at in range(0, len(event.data), 8):
                    self.memory[event.gpa + at] = event.data[at : at + 8]

    def word(self, at: int) -> int:
        return int.from_bytes(self.memory.get(at, b""), "big")

    def walk(self, lpid: int, n_gpa: int) -> tuple[int, int] | None:
        """`(gpa, shift)` that the tables give, None without a translation."""
        word = self.word(LAYOUT.partition_table + 16 * lpid)
        shift = 52
        while word >> 63:
            table, bits = word & 0x0FFF_FFFF_FFFF_FF00, word & 31
            shift -= bits
            word = self.word(table + (n_gpa >> shift) % (1 << bits) * 8)
            if word >> 62 == 3:
                return (word & 0x01FF_FFFF_FFFF_F000) | n_gpa % (1 << shift), shift
        return None


def test_setup_makes_the_vm_its_slot_and_its_code() -> None:
    kinds = [type(event) for event in Guest().setup()]
    assert kinds == [CreateVm, AddSlot, LoadCode]


maps = st.builds(
    lambda lpid, shift, page, target: op.Map(lpid, page << shift, target << shift, shift, 0x187),
    st.integers(0, 3),
    st.sampled_from([12, 16, 21, 30]),
    st.integers(0, 6),
    st.integers(0, 2),
)


@given(st.lists(st.one_of(maps, st.builds(op.Drop, st.integers(0, 3))), max_size=30))
def test_the_newest_mapping_of_an_address_is_what_a_walk_finds(
    steps: list[op.Map | op.Drop],
) -> None:
    guest, memory = Guest(), Bytes()
    for step in steps:
        memory.apply(guest.lower(step))
        if isinstance(step, op.Map):
            assert memory.walk(step.l1_lpid, step.n_gpa) == (step.gpa, step.shift)
        else:
            assert memory.walk(step.l1_lpid, 0) is None
        held = {at: memory.word(at) for at in guest.words}
        assert held == guest.words


@given(st.lists(maps, max_size=30))
def test_words_that_the_guest_does_not_hold_are_zero(steps: list[op.Map]) -> None:
    guest, memory = Guest(), Bytes()
    for step in steps:
        memory.apply(guest.lower(step))
    for lpid in range(4):
        memory.apply(guest.lower(op.Drop(lpid)))
    assert guest.words == {}
    assert not any(any(word) for word in memory.memory.values())


def test_the_first_mapping_also_maps_the_payload() -> None:
    guest, memory = Guest(), Bytes()
    memory.apply(guest.lower(op.Map(5, 0x100_0000, 0x90_0000, 16, 0x187)))
    assert memory.walk(5, 0) == (LAYOUT.payload, 16)
    assert guest.leaf(5, 0) == 0xC000_0000_0000_0187 | LAYOUT.payload


def test_unmap_clears_just_the_leaf() -> None:
    guest, memory = Guest(), Bytes()
    for page in (0, 1):
        memory.apply(guest.lower(op.Map(5, 0x100_0000 + page * 0x10000, 0x90_0000, 16, 0x187)))
    memory.apply(guest.lower(op.Unmap(5, 0x100_0100)))
    assert memory.walk(5, 0x100_0000) is None
    assert memory.walk(5, 0x101_0000) is not None
    assert guest.lower(op.Unmap(5, 0x700_0000)) == []


def test_drop_clears_the_entry_before_the_tlbie_and_the_tables_after_it() -> None:
    guest = Guest()
    guest.lower(op.Map(5, 0x100_0000, 0x90_0000, 16, 0x187))
    events = guest.lower(op.Drop(5))
    assert events[0] == Write(LAYOUT.partition_table + 80, bytes(8))
    assert events[1] == Hcall(0xF808, (2 << 18 | 1 << 16, 5, 2 << 10))
    assert all(isinstance(event, Write) and not any(event.data) for event in events[2:])
    assert len(events) > 2


@pytest.mark.parametrize(
    ("operation", "event"),
    [
        (op.Load(3, 8), Access(3, "load", 8)),
        (op.Store(3, 8, 5), Access(3, "store", 8, 5)),
        (op.Fetch(3, 8), Access(3, "fetch", 8)),
        (op.SetPartitionTable(0x40004), Hcall(0xF800, (0x40004,))),
        (
            op.Tlbie(0, 0, 1, 0, 3, 5, 0x1010),
            Hcall(0xF808, (0x10000, 3, 0x1010000 | 5 << 5)),
        ),
        (op.WriteData(0x900000, 0x1122), Write(0x900000, bytes.fromhex("2211000000000000"))),
        (op.RawHcall(0xF804, (1, 2)), Hcall(0xF804, (1, 2))),
        (op.WriteCode(0x900000), Write(0x900000, bytes.fromhex("2000804e"))),
    ],
)
def test_simple_operations_are_one_event(operation: op.Operation, event: Event) -> None:
    assert Guest().lower(operation) == [event]


@pytest.mark.parametrize(
    "operation",
    [
        op.Map(1, 0x1000, 0x900000, 16, 0x187),
        op.Map(1, 0x10000, 0x901000, 16, 0x187),
        op.Map(1, 1 << 52, 0x900000, 16, 0x187),
        op.Map(1, 0, 0, 39, 0x187),
        op.Map(4096, 0x10000, 0x900000, 16, 0x187),
        op.Map(1, 0x10000, 1 << 57, 16, 0x187),
        op.DiscardMemory(0, LAYOUT.size),
        op.DiscardMemory(LAYOUT.code, 0x10000),
        ev.DeleteSlot(0),
        ev.MoveSlot(0, 0x8000000),
        ev.AddSlot(1, 0x10000, 0x10000, 1 << 45),
        ev.SetSlotFlags(0, 2),
        ev.Protect(LAYOUT.tables, 0x10000, writable=False),
        ev.Migrate(LAYOUT.payload, 0x10000),
        ev.CollapseHuge(LAYOUT.payload, 21),
        ev.Age(LAYOUT.size - 0x10000, 0x20000),
        ev.AddSlot(1, 0x8000000, 0x10000, LAYOUT.userspace_addr + LAYOUT.tables),
        op.DiscardMemory(LAYOUT.size - 0x10000, 0x20000),
        op.WriteData(LAYOUT.code + 0x800, 1),
        op.WriteCode(LAYOUT.payload),
        op.WriteWord(LAYOUT.tables + 4, 1),
    ],
)
def test_what_the_guest_cannot_do_is_refused(operation: op.Operation) -> None:
    guest = Guest()
    with pytest.raises(GuestLayoutError):
        guest.lower(operation)


def test_the_payloads_page_may_go_and_a_further_slot_is_memory() -> None:
    guest = Guest()
    gone = op.DiscardMemory(LAYOUT.payload, 0x10000)
    assert guest.lower(gone) == [ev.Discard(LAYOUT.payload, 0x10000)]
    slot = ev.AddSlot(1, 0x800_0000, 0x100_0000, 1 << 45)
    assert guest.lower(slot) == [slot]
    assert guest.lower(op.WriteData(0x800_0000, 1))
    with pytest.raises(GuestLayoutError):
        guest.lower(op.WriteData(LAYOUT.size - 4, 1))


def test_all_memory_but_the_code_can_be_written_and_discarded() -> None:
    guest = Guest()
    for gpa in (LAYOUT.mailbox, LAYOUT.state, LAYOUT.tables, LAYOUT.payload + 0x1000):
        assert guest.lower(op.WriteWord(gpa, 0x1122)) == [Write(gpa, (0x1122).to_bytes(8, "big"))]
        assert guest.lower(op.DiscardMemory(gpa & -0x10000, 0x10000))
        assert gpa not in guest.words


def test_a_word_written_into_a_table_cuts_off_what_hung_below_and_a_map_repairs_it() -> None:
    guest, memory = Guest(), Bytes()
    first = op.Map(5, 0x100_0000, 0x90_0000, 16, 0x187)
    memory.apply(guest.lower(first))
    root = guest.roots[5]
    for word in (0, 0x8000_0000_0000_0009 | root, 0xC000_0000_0000_0187):
        memory.apply(guest.lower(op.WriteWord(root, word)))
        assert memory.walk(5, 0x100_0000) != (0x90_0000, 16)
        memory.apply(guest.lower(first))
        assert memory.walk(5, 0x100_0000) == (0x90_0000, 16)


strange_words = st.builds(
    op.WriteWord,
    st.integers(0, (LAYOUT.payload - LAYOUT.roots) // 8 - 1).map(lambda i: LAYOUT.roots + 8 * i),
    st.sampled_from([0, 0x8000_0000_0060_0009, 0x8000_0000_0010_000D, 1 << 63, 2**64 - 1]),
)


@given(st.lists(st.one_of(maps, st.builds(op.Drop, st.integers(0, 3)), strange_words), max_size=40))
def test_after_any_words_a_map_is_what_a_walk_finds(steps: list[op.Operation]) -> None:
    guest, memory = Guest(), Bytes()
    for step in steps:
        memory.apply(guest.lower(step))
        if isinstance(step, op.Map):
            assert memory.walk(step.l1_lpid, step.n_gpa) == (step.gpa, step.shift)
        assert guest.words == {at: memory.word(at) for at in memory.memory if memory.word(at)}


def test_no_more_nested_guests_than_there_is_room_for_roots() -> None:
    guest = Guest()
    room = (LAYOUT.tables - LAYOUT.roots) // 0x10000
    for lpid in range(room):
        guest.lower(op.Map(lpid, 0, LAYOUT.payload, 16, 0x187))
    with pytest.raises(GuestLayoutError, match="no room"):
        guest.lower(op.Map(room, 0, LAYOUT.payload, 16, 0x187))
    guest.lower(op.Drop(3))
    guest.lower(op.Map(room, 0, LAYOUT.payload, 16, 0x187))


def test_a_group_that_cannot_be_done_changes_nothing() -> None:
    guest = Guest()
    guest.lower(op.Map(1, 0x100_0000, 0x90_0000, 16, 0x187))
    before = dict(guest.words)
    groups = (
        (op.Load(1, 0x100_0000), op.Map(2, 0x100_0000, 0x91_0000, 16, 0x187)),
        (op.Unmap(1, 0x100_0000), op.DiscardMemory(0x90_0000, 1 << 16), op.Load(1, 0)),
        (op.Load(1, 0), ev.DestroyVm()),
    )
    for group in groups:
        with pytest.raises(GuestLayoutError):
            guest.lower(op.Together(group))
        assert guest.words == before
    assert guest.lower(op.Load(1, 0)), "the VM is still there"


def test_only_without_a_vm_one_is_made_and_nothing_else_is_done() -> None:
    guest = Guest()
    with pytest.raises(GuestLayoutError, match="already"):
        guest.lower(op.CreateGuest())
    guest.lower(ev.DestroyVm())
    for operation in (ev.DestroyVm(), op.Load(1, 0), ev.GetDirtyLog(0)):
        with pytest.raises(GuestLayoutError, match="no VM"):
            guest.lower(operation)
    assert guest.lower(op.CreateGuest()) == guest.setup()
    assert guest.lower(op.Load(1, 0))
