"""Sparse memory: every byte of its regions, across them, and nothing beside them."""

import numpy as np
import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import BulkMemory
from nestscope.sim.image.memory import Region, SparseMemory

FIRST, SECOND, THIRD = b"abcdefgh", b"ijkl", b"mnop"


def _memory() -> SparseMemory:
    """8 bytes from 0x100, 4 that follow, and 4 after a gap; not in order."""
    parts = ((0x108, SECOND), (0x200, THIRD), (0x100, FIRST))
    return SparseMemory([Region(at, np.frombuffer(data, np.uint8)) for at, data in parts])


@pytest.mark.parametrize(
    ("address", "length", "expected"),
    [
        (0x100, 8, FIRST),
        (0x103, 2, b"de"),
        (0x106, 4, b"ghij"),
        (0x100, 12, FIRST + SECOND),
        (0x200, 4, THIRD),
        (0x200, 0, b""),
        (0x1FF, 2, None),
        (0x0FF, 2, None),
        (0x10A, 3, None),
        (0x203, 2, None),
        (0x300, 1, None),
        (0x100, -1, None),
    ],
)
def test_reads_of_one_place_and_of_many(address: int, length: int, expected: bytes | None) -> None:
    memory = _memory()
    assert isinstance(memory, BulkMemory)
    if expected is None:
        with pytest.raises(UnreadableMemoryError):
            memory.read(address, length)
    else:
        assert memory.read(address, length) == expected
    if length > 0:
        rows, good = memory.read_many(np.array([0x100, address, 0x5000], np.uint64), length)
        assert good.tolist() == [length <= 12, expected is not None, False]
        assert rows[1].tobytes() == (expected or bytes(length))


def test_memory_without_regions_holds_nothing() -> None:
    memory = SparseMemory([])
    with pytest.raises(UnreadableMemoryError):
        memory.read(0, 1)
    rows, good = memory.read_many(np.array([0, 8], np.uint64), 8)
    assert not good.any()
    assert rows.shape == (2, 8)
