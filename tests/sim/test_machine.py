"""The model against the naive oracle, over the whole set of operations.

5 000 steps in every run of the tests, 200 000 in the nightly ones.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nestscope.sim import events as ev
from nestscope.sim import operations as op
from nestscope.sim.layout import LAYOUT

from .oracle import G1, M2, Oracle
from .world import World

STEPS = 50
RIGHTS = {"-": set(), "r": {"r"}, "rx": {"r", "x"}, "rw": {"r", "w"}, "rwx": {"r", "w", "x"}}
PAGE = 1 << 16
LARGE = 0xC0_0000
SLOT, SLOT_GPA, SLOT_SIZE, SLOT_HVA = 1, G1, 8 * M2, 0x2000_4000_0000
OTHER_GPA = 2 * G1
N_BASE, N_LARGE = 0x100_0000, 0x4000_0000
WHOLE = LAYOUT.size

lpids = st.sampled_from([0, 1, 2, 3, 200, 4095])
pages = st.integers(0, 5)
large_pages = st.integers(0, 3)
offsets = st.integers(0, (PAGE >> 3) - 1).map(lambda n: n << 3)
rights = st.sampled_from(sorted(RIGHTS))
kinds = st.sampled_from(["load", "store"])


class ModelAndOracle(RuleBasedStateMachine):
    """`self.place`: which guest page a nested address stands for while it may be cached."""

    page_shift = 16

    @initialize()
    def begin(self) -> None:
        self.world = World(page_shift=self.page_shift)
        self.reset()

    def reset(self) -> None:
        self.oracle = Oracle(1 << self.page_shift)
        self.oracle.add_slot(0, 0, LAYOUT.size)
        for at in range(LAYOUT.payload, LAYOUT.payload + PAGE, 1 << self.page_shift):
            if at == LAYOUT.payload:
                self.oracle.private(at)
        self.place: dict[tuple[int, int], tuple[int, int]] = {}
        self.slot_gpa: int | None = None

    def do(self, operation: op.Operation) -> int:
        return self.world.do(operation).ret

    # The guest's tables. Another page comes only where nothing is cached any more.

    def map_at(self, lpid: int, n_gpa: int, gpa: int, shift: int, letters: str) -> None:
        size = 1 << shift
        for (owner, start), (target, length) in list(self.place.items()):
            meets = owner == lpid and start < n_gpa + size and n_gpa < start + length
            if meets and target - start != gpa - n_gpa:
                self.forget(lpid, start, length)
        meeting = [
            (start, length)
            for (owner, start), (_, length) in self.place.items()
            if owner == lpid and start < n_gpa + size and n_gpa < start + length
        ]
        if any(length > size for _, length in meeting):
            for start, length in meeting:
                self.forget(lpid, start, length)
        bits = op.permission_bits("RC") | op.permission_bits(letters)
        self.do(op.Map(lpid, n_gpa, gpa, shift, bits))
        if lpid not in self.oracle.guest:
            self.oracle.map(lpid, 0, LAYOUT.payload, PAGE, {"r", "w", "x"})
        self.oracle.map(lpid, n_gpa, gpa, size, set(RIGHTS[letters]))
        self.place[lpid, n_gpa] = gpa, size

    def forget(self, lpid: int, start: int, length: int) -> None:
        """Unmap and invalidate, so that another page may come."""
        self.do(op.Unmap(lpid, start))
        self.oracle.unmap(lpid, start)
        ap = {1 << 16: 5, M2: 1, G1: 2, 1 << 12: 0}[length]
        self.do(op.Tlbie(0, 0, 1, 0, lpid, ap, start >> 12))
        self.oracle.tlbie(lpid, start, start + length)
        self.place.pop((lpid, start), None)

    @rule(lpid=lpids, n=pages, g=pages, letters=rights)
    def map_page(self, lpid: int, n: int, g: int, letters: str) -> None:
        self.map_at(lpid, N_BASE + n * PAGE, LAYOUT.data + g * PAGE, 16, letters)

    @rule(lpid=lpids, n=pages, g=large_pages, letters=rights)
    def map_part_of_large_memory(self, lpid: int, n: int, g: int, letters: str) -> None:
        at = n * PAGE
        self.map_at(lpid, N_LARGE + g * M2 + at, LARGE + g * M2 + at, 16, letters)

    @rule(lpid=lpids, g=large_pages, letters=rights)
    def map_large(self, lpid: int, g: int, letters: str) -> None:
        self.map_at(lpid, N_LARGE + g * M2, LARGE + g * M2, 21, letters)

    @precondition(lambda self: self.slot_gpa is not None)
    @rule(lpid=lpids, letters=rights)
    def map_huge(self, lpid: int, letters: str) -> None:
        assert self.slot_gpa is not None
        self.map_at(lpid, 4 * G1, self.slot_gpa, 30, letters)

    @rule(lpid=lpids, n=pages, g=pages, letters=rights)
    def map_small(self, lpid: int, n: int, g: int, letters: str) -> None:
        at = (g * PAGE) + (n << 12)
        self.map_at(lpid, 0x900_0000 + at, LAYOUT.data + at, 12, letters)

    @rule(lpid=lpids, n=pages)
    def unmap(self, lpid: int, n: int) -> None:
        self.do(op.Unmap(lpid, N_BASE + n * PAGE))
        self.oracle.unmap(lpid, N_BASE + n * PAGE)

    # Accesses.

    def access(self, lpid: int, kind: str, address: int) -> None:
        operation = op.Load(lpid, address) if kind == "load" else op.Store(lpid, address, 7)
        ret = self.do(operation)
        could = self.oracle.enter(lpid, "r" if kind == "load" else "w", address)
        assert (ret == 0xC00) == could

    @rule(lpid=lpids, n=pages, kind=kinds, offset=offsets)
    def access_page(self, lpid: int, n: int, kind: str, offset: int) -> None:
        self.access(lpid, kind, N_BASE + n * PAGE + offset)

    @rule(lpid=lpids, n=pages, g=large_pages, kind=kinds, offset=offsets)
    def access_large(self, lpid: int, n: int, g: int, kind: str, offset: int) -> None:
        self.access(lpid, kind, N_LARGE + g * M2 + n * PAGE + offset)

    @precondition(lambda self: self.slot_gpa is not None)
    @rule(lpid=lpids, n=pages, g=large_pages, kind=kinds)
    def access_huge(self, lpid: int, n: int, g: int, kind: str) -> None:
        self.access(lpid, kind, 4 * G1 + g * M2 + n * PAGE)

    @rule(lpid=lpids, n=pages, g=pages, kind=kinds)
    def access_small(self, lpid: int, n: int, g: int, kind: str) -> None:
        self.access(lpid, kind, 0x900_0000 + g * PAGE + (n << 12))

    @rule(lpid=lpids, n=pages)
    def fetch_what_is_no_code(self, lpid: int, n: int) -> None:
        """Only where execution is not permitted: there is no `blr` in data."""
        address = N_BASE + n * PAGE
        mapped = [g for g in self.oracle.guest.get(lpid, []) if g.meets(address, address + 1)]
        cached = [s for s in self.oracle.shadow.get(lpid, []) if s.meets(address, address + 1)]
        if not any("x" in leaf.rights for leaf in mapped + cached):
            assert self.do(op.Fetch(lpid, address)) == 0xE20
            assert not self.oracle.enter(lpid, "x", address)

    # The host.

    @rule(g=pages, n=st.integers(1, 3))
    def discard(self, g: int, n: int) -> None:
        start = LAYOUT.data + g * PAGE
        assert self.do(op.DiscardMemory(start, n * PAGE)) == 0
        self.oracle.gone(start, start + n * PAGE)

    @rule(g=large_pages, n=pages, whole=st.booleans())
    def discard_large(self, g: int, n: int, whole: bool) -> None:
        start = LARGE + g * M2 + (0 if whole else n * PAGE)
        length = M2 if whole else PAGE
        assert self.do(op.DiscardMemory(start, length)) == 0
        self.oracle.gone(start, start + length)

    @rule(g=pages)
    def write(self, g: int) -> None:
        self.do(op.WriteData(LAYOUT.data + g * PAGE, 5))
        self.oracle.private(LAYOUT.data + g * PAGE)

    @rule(g=large_pages)
    def migrate(self, g: int) -> None:
        self.do(ev.Migrate(LARGE + g * M2, M2))
        self.oracle.moved(LARGE + g * M2, LARGE + (g + 1) * M2)

    @rule(g=large_pages)
    def collapse_or_split(self, g: int) -> None:
        start = LARGE + g * M2
        held = self.oracle.behind(start)
        if held is not None and held.size == M2:
            self.do(ev.SplitHuge(start, 21))
            self.oracle.split(start)
        else:
            self.do(ev.CollapseHuge(start, 21))
            self.oracle.collapsed(start, M2)

    @rule(g=large_pages)
    def age(self, g: int) -> None:
        self.do(ev.Age(LARGE + g * M2, M2))
        self.do(ev.TestAge(LARGE + g * M2))

    @rule(slot=st.sampled_from([0, SLOT]), logs=st.booleans())
    def log(self, slot: int, logs: bool) -> None:
        """Not of slot 0 with an entry that packs to 0: the flush misses leaves (finding 0001)."""
        if slot == 0 and (LAYOUT.payload, 0, 0) in self.oracle.entries:
            return
        if slot in self.oracle.slots:
            assert self.do(ev.SetSlotFlags(slot, int(logs))) == 0
            self.oracle.set_logging(slot, logs=logs)
            assert (self.do(ev.GetDirtyLog(slot)) == 0) == logs

    @rule(move=st.booleans())
    def change_slot(self, move: bool) -> None:
        if self.slot_gpa is None:
            self.slot_gpa = SLOT_GPA
            assert self.do(ev.AddSlot(SLOT, SLOT_GPA, G1, SLOT_HVA)) == 0
            self.oracle.add_slot(SLOT, SLOT_GPA, G1)
            self.do(op.DiscardMemory(SLOT_GPA, G1))
            self.oracle.gone(SLOT_GPA, SLOT_GPA + G1)
            self.do(ev.CollapseHuge(SLOT_GPA, 30))
            self.oracle.collapsed(SLOT_GPA, G1)
            return
        for (lpid, start), (gpa, length) in list(self.place.items()):
            if gpa == self.slot_gpa:
                self.forget(lpid, start, length)
        if move:
            self.slot_gpa = OTHER_GPA if self.slot_gpa == SLOT_GPA else SLOT_GPA
            assert self.do(ev.MoveSlot(SLOT, self.slot_gpa)) == 0
            self.oracle.move_slot(SLOT, self.slot_gpa)
        else:
            self.slot_gpa = None
            assert self.do(ev.DeleteSlot(SLOT)) == 0
            self.oracle.delete_slot(SLOT)
            self.oracle.backing = [held for held in self.oracle.backing if held.start < SLOT_GPA]

    # The guest's invalidations.

    @rule(lpid=lpids, n=pages, ap=st.sampled_from([5, 1, 2]), large=st.booleans())
    def tlbie(self, lpid: int, n: int, ap: int, large: bool) -> None:
        address = (N_LARGE if large else N_BASE) + n * PAGE
        size = {5: PAGE, 1: M2, 2: G1}[ap]
        assert self.do(op.Tlbie(0, 0, 1, 0, lpid, ap, address >> 12)) == 0
        self.oracle.tlbie(lpid, address - address % size, address - address % size + size)

    @rule(lpid=lpids, ric=st.sampled_from([0, 1, 2]), all_lpids=st.booleans())
    def tlbie_guest(self, lpid: int, ric: int, all_lpids: bool) -> None:
        assert self.do(op.Tlbie(ric, 0, 1, 3 if all_lpids else 2, lpid, 0, 0)) == 0
        for each in sorted(self.oracle.alive) if all_lpids else [lpid]:
            if ric != 1:
                self.oracle.empty(each)
            if ric == 2 and not self.world.guest.words.get(LAYOUT.partition_table + 16 * each):
                self.oracle.drop(each)

    @rule(lpid=lpids, n=pages, count=st.sampled_from([1, 2, 33, 34]))
    def rpt_invalidate(self, lpid: int, n: int, count: int) -> None:
        start, end = N_BASE + n * PAGE, N_BASE + (n + count) * PAGE
        assert self.do(op.RptInvalidate(lpid, 1, 3, 2, start, end)) == 0
        if count > 33:
            self.oracle.empty(lpid)
        else:
            self.oracle.tlbie(lpid, start, end)

    @rule(lpid=lpids, kind=st.sampled_from([3, 5, 9]))
    def rpt_invalidate_everything(self, lpid: int, kind: int) -> None:
        assert self.do(op.RptInvalidate(lpid, 1, kind, 2, 0, 2**64 - 1)) == 0
        self.oracle.empty(lpid)

    @rule(lpid=lpids)
    def drop(self, lpid: int) -> None:
        self.do(op.Drop(lpid))
        self.oracle.drop(lpid)
        self.place = {at: what for at, what in self.place.items() if at[0] != lpid}

    @rule()
    def begin_again(self) -> None:
        if len(self.oracle.entries) > 12:
            self.do(ev.DestroyVm())
            self.world.run("create", "ptcr 0x40004")
            self.reset()

    # Agreement.

    @invariant()
    def agree(self) -> None:
        vm = self.world.vm
        shift = self.page_shift
        entries = {
            (chain.gfn << shift, entry.l1_lpid, entry.n_gpa)
            for memslot in vm.memslots
            for chain in memslot.rmap
            for entry in chain.entries
        }
        assert entries == self.oracle.entries
        shadow = {
            (nested.l1_lpid, leaf.address, leaf.shift)
            for nested in vm.nested
            for leaf in nested.leaves
        }
        assert shadow == {
            (lpid, leaf.start, leaf.size.bit_length() - 1)
            for lpid, leaves in self.oracle.shadow.items()
            for leaf in leaves
        }
        host = {(leaf.address, leaf.shift) for leaf in vm.host_leaves}
        assert {pair for pair in host if pair[0] >= LAYOUT.payload} == {
            (leaf.start, leaf.size.bit_length() - 1) for leaf in self.oracle.host
        }
        assert {nested.l1_lpid for nested in vm.nested} == self.oracle.alive


class On4K(ModelAndOracle):
    page_shift = 12


class On64K(ModelAndOracle):
    page_shift = 16


def run(machine: type[ModelAndOracle], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


MACHINES = pytest.mark.parametrize("machine", [On4K, On64K])


@MACHINES
def test_the_model_and_the_naive_oracle_agree(machine: type[ModelAndOracle]) -> None:
    run(machine, 2_500 // STEPS)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@MACHINES
def test_the_model_and_the_naive_oracle_agree_for_long(machine: type[ModelAndOracle]) -> None:
    run(machine, 100_000 // STEPS)
