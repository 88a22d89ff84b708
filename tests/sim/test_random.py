"""Long random runs: nothing unpredictable is asked, and the rules of the rmap hold."""

from itertools import islice

import pytest

from nestscope.sim.generate import CALM, random_operations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Load, Map, Store
from nestscope.sim.trace import format_trace, parse

from .world import World

RPN = 0x01FF_FFFF_FFFF_F000
HOSTS = [
    {"page_shift": 16},
    {"page_shift": 12},
    {"page_shift": 16, "rc_by_hardware": False, "hisi_flags_visible": True},
    {"page_shift": 12, "rc_by_hardware": False, "hisi_flags_visible": True},
]


def check_rules(world: World) -> None:
    """I1 to I5, said again without a look at the model's own structures."""
    vm = world.vm
    host = {leaf.address: leaf.pte for leaf in vm.host_leaves}
    shift = world.model.facts.page_shift
    listed: dict[tuple[int, int], list[int]] = {}
    for chain in vm.memslots[0].rmap:
        ends_the_walk = any(entry == (0, 0) for entry in chain.entries[:-1])  # finding 0001
        assert ends_the_walk or len(set(chain.entries)) == len(chain.entries) > 0
        assert chain.form == ("single" if len(chain.entries) == 1 else "list")
        for entry in chain.entries:
            assert entry.n_gpa % (1 << shift) == 0
            listed.setdefault((entry.l1_lpid, entry.n_gpa), []).append(chain.gfn << shift)
    for nested in vm.nested:
        for leaf in nested.leaves:
            behind = [host.get(gpa, 0) for gpa in listed.get((nested.l1_lpid, leaf.address), [])]
            match = [pte for pte in behind if pte & RPN == leaf.pte & RPN]
            assert match, (nested.l1_lpid, hex(leaf.address))
            # Several: a stale entry whose page is now the same zero page.
            assert any(not leaf.pte & 0x187 & ~pte for pte in match)
    assert len({n.shadow_lpid for n in vm.nested} | {vm.lpid}) == len(vm.nested) + 1
    assert all(n.refcnt == 1 for n in vm.nested)


@pytest.mark.parametrize("facts", HOSTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_operations_keep_the_rules(seed: int, facts: dict[str, int]) -> None:
    world = World(start=False, **facts)
    for operation in islice(random_operations(seed, LAYOUT, CALM), 1200):
        world.do(operation)
        check_rules(world)
    assert sum(len(chain.entries) for chain in world.chains()) > 20


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    runs = [format_trace(islice(random_operations(seed, LAYOUT), 300)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert len(list(parse(runs[0]))) == 300


def test_a_run_reaches_every_operation_many_nested_guests_and_every_outcome() -> None:
    world = World(start=False)
    verbs: set[str] = set()
    outcomes: set[int] = set()
    lpids: set[int] = set()
    longest = 0
    for operation in islice(random_operations(1, LAYOUT, CALM), 3000):
        verbs.add(type(operation).__name__)
        outcomes.add(world.do(operation).ret)
        if isinstance(operation, Load | Store | Map):
            lpids.add(operation.l1_lpid)
        longest = max(longest, *(len(chain.entries) for chain in world.chains()), 0)
    assert verbs >= {
        "Map", "Unmap", "Load", "Store", "Fetch", "WriteData", "WriteCode",
        "SetPartitionTable", "Tlbie", "DiscardMemory", "Drop",
    }  # fmt: skip
    assert outcomes >= {0, 3, 0xC00, 0xE00, 0xE20, 2**64 - 4}
    assert len(lpids) >= 16
    assert longest >= 16
