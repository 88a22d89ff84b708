"""Operations at the same time: which orders explain a State, and that none other does."""

import copy
from itertools import islice, permutations
from random import Random

import pytest

from nestscope.decoders.compare import Renaming
from nestscope.plugin.differential.together import run, schedules, settle
from nestscope.sim.events import Access, Discard, Event, Result
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.model import Model
from nestscope.sim.operations import Load, Map, SetPartitionTable, Store, Together, permission_bits

N, G = 0x100_0000, 0x90_0000
RWXRC = permission_bits("rwxRC")


class World:
    """A model before the step, and a second one in the place of the kernel."""

    def __init__(self) -> None:
        self.guest = Guest()
        self.model = Model(HostFacts())
        operations = (
            SetPartitionTable(self.guest.layout.ptcr),
            *(Map(lpid, N, G, 16, RWXRC) for lpid in (1, 2)),
            *(Load(lpid, N) for lpid in (1, 2)),
        )
        for event in self.guest.setup():
            self.model.step(event)
        for operation in operations:
            for event in self.guest.lower(operation):
                self.model.step(event)
        self.kernel = copy.deepcopy(self.model)

    def events(self, *operations: Load | Store) -> list[Event]:
        return self.guest.lower(Together(operations))

    def read_page(self, number: int, offset: int, length: int) -> bytes:
        return self.kernel.kvm.memory.read_frame(number, offset, length)

    def settle(self, events: list[Event], results: list[Result]) -> tuple[Model, list[str]]:
        names = Renaming()
        self.model.host_pages = names.known
        names.mixed = self.model.mixed
        settled = settle(self.model, names, events, results, self.kernel.state(), self.read_page)
        return settled.model, [str(difference) for difference in settled.differences]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order_of_whole_operations_is_found(order: tuple[int, ...]) -> None:
    world = World()
    events = world.events(Store(1, N, 0x11), Load(2, N), Store(2, N, 0x22))
    results = run(world.kernel, events, [Result()] * 3, order)
    model, differences = world.settle(events, results)
    assert differences == []
    last = 0x11 if order.index(0) > order.index(2) else 0x22
    (load,) = world.guest.lower(Load(1, N))
    assert model.step(load).value == last


@pytest.mark.parametrize(("order", "last"), [((0, 1), 0x22), ((1, 0), 0x11)])
def test_the_page_tells_which_of_two_stores_was_the_last(order: tuple[int, ...], last: int) -> None:
    world = World()
    # Both may write already, so that no chain and no leaf tells the order.
    for lpid in (1, 2):
        (store,) = world.guest.lower(Store(lpid, N, 0x55))
        world.model.step(store)
    (store,) = world.guest.lower(Store(1, N, 0x55))
    world.model.step(store)
    world.kernel = copy.deepcopy(world.model)
    events = world.events(Store(1, N, 0x11), Store(2, N, 0x22))
    results = run(world.kernel, events, [Result()] * 2, order)
    model, differences = world.settle(events, results)
    assert differences == []
    (load,) = world.guest.lower(Load(1, N))
    assert model.step(load).value == last


@pytest.mark.parametrize("seed", range(8))
def test_an_interleaving_of_a_discard_with_accesses_is_found(seed: int) -> None:
    world = World()
    calls = world.events(Store(1, N, 0x11), Load(2, N))
    events: list[Event] = [*calls, Discard(G, 1 << 16)]
    results = run(world.kernel, events, [Result()] * 3, Random(1000 + seed))
    assert world.settle(events, results)[1] == []


def test_a_result_that_no_order_leads_to_is_a_difference() -> None:
    world = World()
    events = world.events(Store(1, N, 0x11), Load(2, N))
    results = run(world.kernel, events, [Result()] * 2, (0, 1))
    results[1] = results[1]._replace(value=0x33)
    _, differences = world.settle(events, results)
    assert len(differences) == 1
    assert "result.access.value" in differences[0]


def test_a_state_that_no_order_leads_to_is_a_difference() -> None:
    world = World()
    events = world.events(Store(1, N, 0x11), Load(2, N))
    results = run(world.kernel, events, [Result()] * 2, (0, 1))
    world.kernel.kvm.nested[2].shadow.clear()
    assert any("leaves" in difference for difference in world.settle(events, results)[1])


def test_each_call_has_a_vcpu_of_its_own() -> None:
    events = World().events(Load(1, N), Load(2, N), Store(1, N, 1))
    assert [event.vcpu for event in events if isinstance(event, Access)] == [0, 1, 2]


def test_orders_come_before_interleavings() -> None:
    first = list(islice(schedules(3), 8))
    assert first[:6] == list(permutations(range(3)))
    assert all(isinstance(schedule, Random) for schedule in first[6:])
