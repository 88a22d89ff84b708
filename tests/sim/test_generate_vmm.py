"""Random programs with the events of VMM and host: they run, reach all, and break nothing."""

from itertools import islice

import pytest

from nestscope.sim.generate import HOST, random_operations
from nestscope.sim.invariants import Violation, violations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Together
from nestscope.sim.trace import format_trace, parse

from .world import World


def known(found: Violation) -> bool:
    """Whether it is finding 0001: the entry of l1_lpid 0 ends the walk of the payload's chain."""
    return found.rule in ("I1", "I5") and not found.n_gpa


@pytest.mark.parametrize("page_shift", [12, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_programs_of_the_host_keep_the_invariants(seed: int, page_shift: int) -> None:
    world = World(start=False, page_shift=page_shift, pseries=bool(seed % 2))
    for number, operation in enumerate(islice(random_operations(seed, LAYOUT, HOST), 1200)):
        world.do(operation)
        if number % 10 == 0:
            left = [v for v in violations(world.state, rc_by_hardware=True) if not known(v)]
            assert left == []


def test_every_event_of_the_host_comes_and_most_are_accepted_and_refused() -> None:
    world = World(start=False, pseries=False)
    done: set[tuple[str, bool]] = set()
    for operation in islice(random_operations(10, LAYOUT, HOST), 6000):
        result = world.do(operation)
        done.add((type(operation).__name__, result.ret == 0))
    accepted = {name for name, fine in done if fine}
    assert accepted >= {
        "AddSlot", "DeleteSlot", "MoveSlot", "SetSlotFlags", "GetDirtyLog", "CollapseHuge",
        "SplitHuge", "Protect", "Migrate", "Remap", "Age", "DestroyVm", "CreateGuest",
        "AdviseHuge", "Fork",
        "SwitchToHpt", "SwitchToRadix",
    }  # fmt: skip
    refused = {name for name, fine in done if not fine}
    assert refused >= {"AddSlot", "MoveSlot", "SetSlotFlags", "GetDirtyLog", "ClearDirtyLog"}


def test_a_program_of_the_host_survives_its_own_text() -> None:
    program = list(islice(random_operations(5, LAYOUT, HOST), 2000))
    assert list(parse(format_trace(program))) == program
    assert any(isinstance(operation, Together) for operation in program)
