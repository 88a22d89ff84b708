"""Paths as steps: two of them at once, by hand."""

import pytest

from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import Access, Discard, Result
from nestscope.sim.nested import get_nested, lock_tlb, put_nested
from nestscope.sim.steps import GracePeriod, Mutex, Point, Srcu, Steps, drain

from .world import World

G, N = 0x90_0000, 0x100_0000


def until(path: Steps[Result], name: str) -> None:
    """Run a path until the section `name` comes next."""
    for point in path:
        if point == name:
            return
    raise AssertionError(f"the path never comes to '{name}'")


def ready_world() -> World:
    world = World()
    world.run(f"write {G:#x} 1", f"map 1 {N:#x} {G:#x} 64K rwxRC", "load 1 0x7000000")
    return world


def test_drain_gives_the_result_and_refuses_to_wait_for_itself() -> None:
    def path(mutex: Mutex) -> Steps[int]:
        yield "a section"
        while mutex.held:
            yield mutex
        return 7

    mutex = Mutex("m")
    assert drain(path(mutex)) == 7
    mutex.held = True
    with pytest.raises(UnmodelledError, match="lock"):
        drain(path(mutex))


def test_a_grace_period_waits_for_readers_from_before_only() -> None:
    srcu = Srcu()
    early = srcu.read_lock()
    period = GracePeriod(srcu)
    srcu.read_lock()
    assert not period.ready()
    srcu.read_unlock(early)
    assert period.ready()


@pytest.mark.parametrize("name", ["find the host leaf", "set the leaf"])
def test_13_a_fault_that_an_invalidation_overtakes_sets_no_stale_leaf(name: str) -> None:
    world = ready_world()
    world.run(f"load 1 {N:#x}", f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn={N >> 12:#x}")
    fault = world.model.path(Access(1, "load", N))
    until(fault, name)
    drain(world.model.path(Discard(G, 0x10000)))
    assert world.host(G) is None
    result = drain(fault)
    assert (result.ret, result.value) == (0xC00, 0)
    shadow, host = world.shadow(1, N), world.host(G)
    assert shadow is not None
    assert host is not None
    assert shadow & ~0xFFF == host & ~0xFFF


def test_13_while_an_invalidation_is_under_way_no_leaf_is_set() -> None:
    world = ready_world()
    discard = world.model.path(Discard(G, 0x10000))
    until(discard, "change the translation")
    assert world.model.kvm.mmu_invalidate_in_progress == 1
    fault = world.model.path(Access(1, "load", N))
    for _ in range(200):
        next(fault)
    assert world.shadow(1, N) is None is world.host(G)
    drain(discard)
    assert drain(fault).value == 0
    assert world.shadow(1, N) is not None


def test_23_the_second_of_two_first_entries_is_refused() -> None:
    world = ready_world()
    kvm = world.model.kvm
    first, second = (get_nested(kvm, 7, create=True) for _ in range(2))
    points: list[Point] = [next(first), next(second), next(first), next(second)]
    assert points[2:] == ["make the nested guest"] * 2
    assert next(first) == "add the nested guest"
    assert drain(second) is None
    nested = drain(first)
    assert nested is not None
    assert nested.refcnt == 2
    assert kvm.lpids == {1, 2, 3}


def test_a_fault_waits_for_the_tlb_lock() -> None:
    world = ready_world()
    nested = world.model.kvm.nested[1]
    nested.tlb_lock.held = True
    fault = world.model.path(Access(1, "load", N))
    point: Point = ""
    while isinstance(point, str):
        point = next(fault)
    assert point is nested.tlb_lock
    assert not point.ready()
    nested.tlb_lock.held = False
    assert drain(fault).ret == 0xC00


def test_of_two_that_wait_for_a_lock_one_waits_on() -> None:
    world = ready_world()
    nested = world.model.kvm.nested[1]
    nested.tlb_lock.held = True
    first, second = (lock_tlb(world.model.kvm, nested) for _ in range(2))
    assert next(first) is next(second) is nested.tlb_lock
    nested.tlb_lock.held = False
    drain(first)
    assert nested.tlb_lock.held
    assert next(second) is nested.tlb_lock


def test_16_a_nested_guest_lives_as_long_as_somebody_is_in_it() -> None:
    world = ready_world()
    kvm = world.model.kvm
    nested = drain(get_nested(kvm, 1, create=False))
    assert nested is not None
    world.run("drop 1")
    assert 1 not in kvm.nested
    assert not nested.released
    drain(put_nested(kvm, nested))
    assert nested.released
    assert kvm.uses_after_free == []


def test_21_a_slot_is_not_freed_while_a_fault_uses_it() -> None:
    world = ready_world()
    world.run("slot 1 0x8000000 0x100000 0x200000000000 0")
    world.run(f"map 1 {N:#x} 0x8000000 64K rwxRC")
    kvm = world.model.kvm
    fault = world.model.path(Access(1, "load", N))
    until(fault, "set the leaf")
    from nestscope.sim.memslots import set_memory_region

    delete = set_memory_region(kvm, 1, 0, 0, 0, 0)
    point: Point = ""
    while isinstance(point, str):
        point = next(delete)
    assert not point.ready()
    for _ in range(50):
        next(fault)
        if point.ready():
            break
    assert point.ready()
    assert drain(delete) == 0
    assert kvm.uses_after_free == []


def test_21_slots_do_not_change_while_a_notifier_is_between_start_and_end() -> None:
    world = ready_world()
    kvm = world.model.kvm
    from nestscope.sim.memslots import NoInvalidation, set_memory_region

    discard = world.model.path(Discard(G, 0x10000))
    until(discard, "change the translation")
    add = set_memory_region(kvm, 1, 0x800_0000, 0x10_0000, 0x2000_0000_0000, 0)
    point: Point = ""
    while isinstance(point, str):
        point = next(add)
    assert isinstance(point, NoInvalidation)
    assert not point.ready()
    drain(discard)
    assert point.ready()
    assert drain(add) == 0


@pytest.mark.parametrize("place", ["retry_before", "retry", "rmap_node"])
def test_13_every_observed_failure_only_costs_another_fault(place: str) -> None:
    from nestscope.sim.facts import Observations

    world = ready_world()
    result = world.run(f"load 1 {N:#x}", observed=Observations((place,)))
    assert (result.ret, result.value) == (0xC00, 1)
    assert world.chain(G) == ("single", ((1, N),))
