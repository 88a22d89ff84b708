"""Orders on a real kernel: races of the findings happen each time, and model and kernel agree."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nestscope.plugin.differential.order.conductor import OrderError
from nestscope.plugin.differential.order.sites import PlaceError, Sites
from nestscope.plugin.differential.plan import processors_for
from nestscope.plugin.differential.runner import Step
from nestscope.plugin.differential.session import Via, open_comparison
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.invariants import violations
from nestscope.sim.operations import Load, Order
from nestscope.sim.places import Place, known_places
from nestscope.sim.trace import parse

pytestmark = pytest.mark.kernel

FINDINGS = Path(__file__).parents[4] / "docs" / "findings"
PREPARED = """nestscope-trace 2
ptcr 0x40004
slot 1 0x40000000 0x200000 0x200000000000 1
map 1 0x1000000 0x40000000 64K rwxRC
store 1 0x1000000 0x1
"""


@pytest.fixture(scope="module")
def machine(kernel_files: KernelFiles) -> Iterator[Lab]:
    """A machine of its own: who is held needs a processor."""
    with Lab.boot(kernel_files, processors=processors_for([Order((), ())])) as lab:
        yield lab


@pytest.fixture
def clean(machine: Lab) -> Iterator[Lab]:
    machine.agent.must(["destroy"])
    yield machine
    machine.agent.must(["destroy"])


def compared(lab: Lab, name: str) -> list[Step]:
    (path,) = FINDINGS.glob(f"{name}*.trace")
    with open_comparison(lab) as live:
        steps = [live.comparison.step(operation) for operation in read_trace(path)]
    assert [step.differences for step in steps] == [()] * len(steps)
    return steps


def test_0005_an_orphaned_nested_guest_keeps_a_leaf_over_a_page_that_is_gone(clean: Lab) -> None:
    order = compared(clean, "0005")[-1]
    rules = [{one.rule for one in violations(s, rc_by_hardware=True)} for s in order.held]
    assert rules == [set(), set(), {"I6"}, {"I6"}, {"I6"}, {"I6"}, {"I1", "I6"}, set()]
    orphans = [[len(guest.leaves) for guest in state.vms[0].orphans] for state in order.held]
    assert orphans == [[], [], [0], [0], [0], [1], [1], []]


@pytest.mark.nightly
def test_0006_a_chain_is_emptied_while_logging_ends(clean: Lab) -> None:
    *_, order = compared(clean, "0006-while")
    rules = [{one.rule for one in violations(s, rc_by_hardware=True)} for s in order.held]
    assert rules == [set(), {"I1"}, {"I1"}]


def test_0008_the_guests_number_of_a_nested_guest_is_passed_to_tlbie(clean: Lab) -> None:
    with open_comparison(clean, Via.MI) as live:
        for operation in parse(PREPARED):
            assert live.comparison.step(operation).differences == ()
        session, kernel = live.session, live.machine.kernel
        assert session is not None
        (nested,) = live.machine.state().vms[0].nested
        files = clean.kernel
        (call,) = Sites(kernel, files.modules_dir, files.vmlinux).addresses(
            Place("kvmhv_update_nest_rmap_rc_list", "kvmppc_radix_tlbie_page")
        )
        with session.stopped():
            number = session.break_at(call)
        clean.agent.submit(["dirtylog 1"])
        session.wait_stop(10)
        # kvmppc_radix_tlbie_page(kvm, addr, pshift, lpid)
        seen = session.read_registers("nip", "r4", "r6")
        session.delete_breakpoint(number)
        session.cont()
        clean.agent.collect(1)
    assert (seen["nip"], seen["r4"]) == (call, 0x100_0000)
    assert (seen["r6"], nested.l1_lpid) == (1, 1)
    assert nested.shadow_lpid != 1


def test_who_never_comes_to_a_place_is_told_and_nothing_is_left_behind(clean: Lab) -> None:
    with open_comparison(clean) as live:
        for operation in parse(PREPARED):
            live.comparison.step(operation)
        never = Place("kvmhv_emulate_tlbie_lpid", "mutex_lock")
        with pytest.raises(OrderError, match="ends before it comes to"):
            live.comparison.step(Order((Load(1, 0x100_0000),), ((never,),)))
        with pytest.raises(PlaceError, match="no place kvmppc_create_pte:nobody"):
            live.comparison.step(
                Order((Load(1, 0x100_0000),), ((Place("kvmppc_create_pte", "nobody"),),))
            )
    clean.agent.must(["destroy"])
    with open_comparison(clean) as live:
        steps = [live.comparison.step(operation) for operation in parse(PREPARED)]
    assert [step.differences for step in steps] == [()] * len(steps)


def test_the_kernel_has_every_place_of_the_model(clean: Lab) -> None:
    with open_comparison(clean) as live:
        sites = Sites(live.machine.kernel, clean.kernel.modules_dir, clean.kernel.vmlinux)
        found = {place: sites.addresses(Place.parse(place)) for place in known_places()}
        assert all(found.values())
        assert len(set(sites.loops(3))) == 3
