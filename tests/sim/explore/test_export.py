"""A broken interleaving is told as an order of the trace language."""

from nestscope.sim.explore.export import order_of
from nestscope.sim.explore.scenarios import STARTS, Scenario, entered, more
from nestscope.sim.explore.survey import Broken, survey
from nestscope.sim.explore.tasks import dirty_clear, fault

LOST_DIRTY = Scenario("host leaf", (fault("store"), dirty_clear()), entered(STARTS[1].make, 1))


def broken(scenario: Scenario, rule: str) -> Broken:
    (found,) = [one for one in survey([scenario]).broken if one.rule == rule]
    return found


def told(name: str, rule: str) -> list[str]:
    (scenario,) = [one for one in more() if name in one.name]
    return order_of(broken(scenario, rule)).split(" | ")


def test_the_fault_is_held_before_it_sets_the_leaf_and_the_log_is_read_to_its_end() -> None:
    first, second = order_of(broken(LOST_DIRTY, "I4")).split(" | ")
    assert first.split()[:4] == ["fault", "(store)", "at", "kvmppc_create_pte:_raw_spin_lock"]
    assert second == "dirty clear"


def test_logging_is_held_before_the_slot_is_flushed() -> None:
    _, logging = told("logging off", "I1")
    assert logging == "logging off at kvmppc_core_commit_memory_region_hv"


def test_who_has_not_begun_does_not_move_in_earlier_rounds() -> None:
    store, drop, unmap = told("drop and reuse", "I1")
    assert store.split()[3:5] == ["-", "kvmhv_nested_page_fault:mutex_lock"]
    assert drop == "drop and reuse at kvmhv_emulate_tlbie_lpid:kvmhv_update_ptbl_cache"
    assert unmap.split()[:4] == ["unmap", "at", "-", "-"]
