"""XArrays as IDRs use them."""

from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.kernel.xarray import XArrayReader
from nestscope.decoders.state import Problem
from tests.decoders.kernel.world import SLOTS, World

PATH = "vms[0].nested"
ZERO_ENTRY = 257 << 2 | 2


def _node(world: World, shift: int, slots: dict[int, int]) -> int:
    """Lay out a node; return its address."""
    return world.make("xa_node", {"shift": shift} | {f"slots[{n}]": v for n, v in slots.items()})


def _tree(world: World, shift: int, entries: dict[int, int]) -> int:
    """Lay out a tree of nodes; return the entry that leads to it."""
    if shift < 0:
        return entries[0]
    slots: dict[int, dict[int, int]] = {}
    for index, pointer in entries.items():
        slots.setdefault(index >> shift, {})[index & (1 << shift) - 1] = pointer
    below = {slot: _tree(world, shift - 6, inner) for slot, inner in slots.items()}
    return _node(world, shift, below) + 2


def _read(world: World, head: int) -> tuple[list[tuple[int, int]], list[Problem]]:
    return XArrayReader(world.types, world.memory).entries(head, PATH)


def test_an_empty_array_and_one_without_a_node() -> None:
    world = World()
    assert _read(world, 0) == ([], [])
    assert _read(world, 0xC000_0000_0000_1000) == ([(0, 0xC000_0000_0000_1000)], [])


@given(
    st.dictionaries(
        st.integers(1, 4095), st.integers(1, 2**61 - 1).map(lambda n: n * 8), max_size=12
    ),
    st.integers(0, 1),
    st.sampled_from(["little", "big"]),
)
def test_every_entry_by_its_index(entries: dict[int, int], higher: int, byteorder: str) -> None:
    world = World("little" if byteorder == "little" else "big")
    shift = 6 * higher if all(index < SLOTS for index in entries) else 6
    head = _tree(world, shift, entries) if entries else 0
    assert _read(world, head) == (sorted(entries.items()), [])


def test_reserved_slots_are_legal() -> None:
    world = World()
    head = _node(world, 0, {1: 0x1000, 2: 0, 3: ZERO_ENTRY}) + 2
    assert _read(world, head) == ([(1, 0x1000)], [])


def test_an_entry_that_is_no_pointer_is_named_by_its_place() -> None:
    world = World()
    node = _node(world, 0, {1: 0x1000, 2: 0x1001, 3: 4 << 2 | 2})
    entries, problems = _read(world, node + 2)
    assert entries == [(1, 0x1000)]
    places = {problem.address for problem in problems}
    assert places == {world.at("xa_node", node, f"slots[{n}]") for n in (2, 3)}
    assert all(problem.path == PATH for problem in problems)


def test_cycles_wrong_shifts_and_unreadable_nodes_end() -> None:
    world = World()
    leaf = _node(world, 0, {5: 0x2000})
    top = _node(world, 6, {})
    for slot, entry in {0: leaf, 1: top, 2: leaf, 3: 0xC000_0F00_0000_0000}.items():
        world.set("xa_node", top, f"slots[{slot}]", entry + 2)
    entries, problems = _read(world, top + 2)
    # Which of the two ways to the leaf is taken does not matter; the other is a problem.
    assert len(entries) == 1
    messages = sorted(problem.message for problem in problems)
    assert len(messages) == 3
    assert sum("second time" in message for message in messages) == 2
    assert sum("cannot be read" in message for message in messages) == 1
    world.set("xa_node", leaf, "shift", 7)
    entries, problems = _read(world, leaf + 2)
    assert entries == []
    assert "impossible shift 7" in problems[0].message


def test_a_node_that_skips_a_level_is_not_followed() -> None:
    world = World()
    leaf = _node(world, 0, {5: 0x2000})
    top = _node(world, 12, {0: leaf + 2})
    entries, problems = _read(world, top + 2)
    assert entries == []
    assert problems[0].address == leaf
