"""Operations in a directed order: places, turns, and what the model does in one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nestscope.decoders.state import State
from nestscope.plugin.differential.order.model import model_in_order
from nestscope.sim.errors import GuestLayoutError, UnmodelledError
from nestscope.sim.events import SwitchToHpt
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.invariants import violations
from nestscope.sim.model import Model
from nestscope.sim.operations import Load, Order
from nestscope.sim.order import Held, run_in_order, vcpus_of
from nestscope.sim.places import PLACES, TLB_LOCK, Place, known_places
from nestscope.sim.steps import Mutex, Steps
from nestscope.sim.trace import TraceError, format_operation, parse, parse_line

FINDINGS = Path(__file__).parents[2] / "docs" / "findings"
MODEL = Path(__file__).parents[2] / "sim"
NAMES = some.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True)
ALL_PLACES = some.builds(Place, NAMES, some.none() | NAMES, some.integers(1, 9999))
LOCK = Place("kvmppc_create_pte", "_raw_spin_lock")


@given(ALL_PLACES)
def test_a_place_reads_as_it_is_written(place: Place) -> None:
    assert Place.parse(str(place)) == place


@given(some.lists(some.tuples(NAMES, some.lists(some.none() | ALL_PLACES, max_size=3)), min_size=1))
def test_an_order_reads_as_it_is_written(turns: list[tuple[str, list[Place | None]]]) -> None:
    order = Order(
        tuple(Load(number, 0) for number in range(len(turns))),
        tuple(tuple(places) for _, places in turns),
    )
    assert parse_line(1, format_operation(order)) == order


@pytest.mark.parametrize(
    ("line", "version", "message"),
    [
        ("order load 1 0x0 at 0xc008000000000000", 5, "is not FUNCTION"),
        ("order load 1 0x0 at f[0]", 5, "is not FUNCTION"),
        ("order load 1 0x0 | ", 5, "there is one operation"),
        ("order load 1 0x0 at f", 4, "needs the header 'nestscope-trace 5'"),
        ("together load 1 0x0 at f | load 1 0x0", 5, "too much"),
    ],
)
def test_a_wrong_order_is_refused(line: str, version: int, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_line(1, line, version)


def test_every_known_place_is_one() -> None:
    assert [str(Place.parse(place)) for place in known_places()] == known_places()
    assert all(PLACES.values())


@pytest.mark.parametrize("section", sorted(set(PLACES) - {TLB_LOCK}))
def test_every_section_with_a_place_is_one_that_the_model_runs(section: str) -> None:
    sources = (path.read_text(encoding="utf-8") for path in MODEL.glob("*.py"))
    assert any(f'yield "{section}"' in source for source in sources)


def walker(name: str, log: list[str], sections: int) -> Iterator[str]:
    for number in range(sections):
        yield "set the leaf"
        log.append(f"{name}{number}")
    return


def held(name: str, log: list[str], *turns: Place | None) -> Held[str]:
    def path() -> Steps[str]:
        yield from walker(name, log, 3)
        return name

    return Held(path(), turns)


def test_operations_take_turns_from_left_to_right() -> None:
    log: list[str] = []
    rests: list[list[str]] = []
    paths = [held("a", log, LOCK._replace(times=2), LOCK), held("b", log, None, LOCK)]
    assert run_in_order(paths, lambda: rests.append(list(log))) == ["a", "b"]
    assert rests == [
        ["a0"],
        ["a0", "a1"],
        ["a0", "a1"],
        ["a0", "a1", "a2"],
        ["a0", "a1", "a2", "b0", "b1", "b2"],
    ]


def test_an_operation_that_ends_before_its_place_is_told() -> None:
    with pytest.raises(UnmodelledError, match=r"ends before it comes to kvmppc_create_pte.*\[4\]"):
        run_in_order([held("a", [], LOCK._replace(times=4))])


def test_an_operation_that_waits_for_one_that_is_held_is_told() -> None:
    mutex = Mutex("tlb_lock of 1")

    def path() -> Steps[str]:
        while mutex.held:
            yield mutex
        mutex.held = True
        yield "set the leaf"
        mutex.held = False
        return "done"

    with pytest.raises(UnmodelledError, match="waits for one that is held"):
        run_in_order([Held(path(), [LOCK]), Held(path(), [])])
    mutex.held = False
    assert run_in_order([Held(path(), []), Held(path(), [])]) == ["done", "done"]


def test_who_is_held_has_a_vcpu_of_its_own() -> None:
    assert vcpus_of([(LOCK,), (), (None, LOCK), ()]) == [0, 2, 1, 2]


def test_more_than_the_vcpus_cannot_be_held() -> None:
    guest = Guest()
    with pytest.raises(GuestLayoutError, match="at most 2"):
        guest.lower(Order((Load(1, 0),) * 4, ((LOCK,),) * 3 + ((),)))
    with pytest.raises(GuestLayoutError, match="stand still"):
        guest.lower(Order((SwitchToHpt(),), ((),)))


def replayed(name: str, facts: HostFacts) -> list[State]:
    """Return the States of a finding's order, turn by turn, and the last one."""
    (path,) = FINDINGS.glob(f"{name}-*.trace")
    guest, model = Guest(), Model(facts)
    states: list[State] = []
    for event in guest.setup():
        model.step(event)
    for operation in parse(path.read_text()):
        if isinstance(operation, Order):
            states = model_in_order(model, guest.lower_order(operation), operation.turns).states
        else:
            for event in guest.lower(operation):
                model.step(event)
    return [*states, model.state()]


def test_0004_the_shadow_leaf_has_c_and_the_host_leaf_has_not() -> None:
    states = replayed("0004", HostFacts(rc_by_hardware=False))
    broken = [violations(state, rc_by_hardware=False) for state in states]
    assert [[one.rule for one in each] for each in broken] == [[], [], ["I4"], ["I4"]]


def test_0005_the_leaf_outlives_its_host_page_until_the_vcpu_leaves() -> None:
    states = replayed("0005", HostFacts())
    rules = [{one.rule for one in violations(state, rc_by_hardware=True)} for state in states]
    assert rules == [set(), set(), {"I6"}, {"I6"}, {"I6"}, {"I6"}, {"I1", "I6"}, set(), set()]
