"""Many kernel addresses at once are read like each of them alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.memory import LINEAR_START
from tests.decoders.kernel.world import LEAF, PGD, SIZE, World

START = 0xC008_0000_0020_0000
MAPPED = 0x10_0000
PAGE = 1 << 12


def _world(last_bits: int, order: list[int]) -> World:
    """Pages of 4 or 64 KiB at START, in a given physical order; -1 is a hole."""
    world = World()
    shift = 21 - last_bits
    for number, place in enumerate(order):
        if place >= 0:
            address = START + (number << shift)
            world.map_kernel(address, MAPPED + (place << shift), last_bits)
    random = np.random.default_rng(1)
    world.physical.data[MAPPED:] = random.integers(0, 256, SIZE - MAPPED, np.uint8).tobytes()
    return world


def _map_huge(world: World, address: int, physical: int) -> None:
    """Make the entry of level 2 a leaf."""
    table = PGD
    for shift, bits in ((39, 13), (30, 9)):
        entry = table + 8 * (address >> shift & (1 << bits) - 1)
        table = int.from_bytes(world.physical.read(entry, 8), "big") & 0x0FFF_FFFF_FFFF_FF00
    world.put_big(LINEAR_START | table + 8 * (address >> 21 & 511), LEAF | physical | 0x186)


def _expected(world: World, address: int, length: int) -> bytes | None:
    try:
        return world.memory.read(address, length)
    except UnreadableMemoryError:
        return None


@pytest.mark.parametrize("last_bits", [5, 9])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_are_those_of_single_reads(last_bits: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(12)).map(list))
    holes = data.draw(st.sets(st.integers(0, 11), max_size=3))
    world = _world(last_bits, [-1 if at in holes else place for at, place in enumerate(order)])
    if data.draw(st.booleans()):
        _map_huge(world, START & (1 << 52) - 1, 0x20_0000)
    length = data.draw(st.sampled_from((8, 16, 4096)))
    near = st.integers(0, 12 << 21 - last_bits).map(lambda at: START + at // 8 * 8)
    far = st.sampled_from((START + (2 << 20), START + (4 << 30), LINEAR_START + MAPPED, 0x1000))
    addresses = data.draw(st.lists(near | far, min_size=1, max_size=40))
    pages = [START + at * PAGE for at in range(data.draw(st.integers(0, 200)))]
    column = np.array(addresses + pages, np.uint64)
    rows, good = world.memory.read_many(column, length)
    world.memory.forget()
    for row, readable, address in zip(rows, good.tolist(), column.tolist(), strict=True):
        expected = _expected(world, address, length)
        assert readable == (expected is not None)
        assert row.tobytes() == (expected or bytes(length))


def test_translations_are_forgotten_with_the_rest() -> None:
    world = _world(5, [0])
    column = np.array([START + at * 128 for at in range(64)], np.uint64)
    before, _ = world.memory.read_many(column, 8)
    world.map_kernel(START, MAPPED + 0x8_0000, 5)
    world.memory.forget()
    after, good = world.memory.read_many(column, 8)
    assert good.all()
    assert not (before == after).all()
