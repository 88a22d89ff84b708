"""Programs of a guest that does whatever the interface accepts."""

from collections import Counter
from itertools import islice

import pytest

from nestscope.sim.errors import GuestLayoutError, UnmodelledError
from nestscope.sim.generate import EVERYTHING, WILD, Profile, random_operations
from nestscope.sim.generate_wild import SAFE_END
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import RptInvalidate
from nestscope.sim.trace import format_trace, parse

from .test_random import HOSTS
from .world import World

U64 = 2**64 - 1


def run(world: World, seed: int, steps: int, profile: Profile) -> tuple[Counter[str], str]:
    """Return what was done and how it ended, and why the model lost track, if it did."""
    outcomes: Counter[str] = Counter()
    for operation in islice(random_operations(seed, LAYOUT, profile), steps):
        try:
            result = world.do(operation)
        except GuestLayoutError:
            continue
        except UnmodelledError as problem:
            return outcomes, str(problem)
        outcomes[f"{type(operation).__name__} {result.ret:#x}"] += 1
    return outcomes, ""


@pytest.mark.parametrize("facts", HOSTS)
def test_nearly_all_of_a_wild_program_is_predicted(facts: dict[str, int]) -> None:
    runs = [run(World(start=False, **facts), seed, 250, WILD) for seed in range(8)]
    assert sum(outcomes.total() for outcomes, _ in runs) > 1500
    reasons = [why for _, why in runs if why]
    assert len(reasons) <= 2, reasons


def test_wild_programs_reach_every_way_to_end() -> None:
    seen: Counter[str] = Counter()
    for seed in range(12):
        seen += run(World(start=False), seed, 300, WILD)[0]
    entered = {text.split()[1] for text in seen if text.startswith(("Load", "Store", "Fetch"))}
    assert entered >= {"0xc00", "0xe00", "0xe20", "0xe40", "0x980", hex(U64 - 3)}
    hcalls = {text.split()[1] for text in seen if text.startswith("RawHcall")}
    assert hcalls >= {"0x0", "0x980", hex(U64 - 3)}
    ranges = {text.split()[1] for text in seen if text.startswith("RptInvalidate")}
    assert ranges >= {"0x0", *(hex(2**64 + h) for h in (-55, -57, -58))}


def test_wild_programs_mix_pages_and_break_trees() -> None:
    mixed, wild_roots = 0, 0
    for seed in range(12):
        world = World(start=False)
        run(world, seed, 300, WILD)
        mixed += len(world.model.mixed)
        roots = {nested.l1_gr_to_hr for nested in world.vm.nested}
        wild_roots += sum(root & 0x1F != 13 for root in roots if root)
    assert mixed
    assert wild_roots


def test_no_range_of_a_wild_program_wraps_around() -> None:
    """Finding 0007: such a hypercall never returns."""
    for seed in range(5):
        for operation in islice(random_operations(seed, LAYOUT, WILD), 2000):
            if isinstance(operation, RptInvalidate):
                assert operation.end <= SAFE_END or (operation.start, operation.end) == (0, U64)


def test_what_the_host_does_joins_in() -> None:
    text = format_trace(islice(random_operations(3, LAYOUT, EVERYTHING), 1500))
    verbs = {line.split()[0] for line in text.splitlines()}
    assert verbs >= {"word", "hcall", "rpti", "slot", "dirtylog", "collapse", "age", "ptcr"}
    assert len(list(parse(text))) == 1500
