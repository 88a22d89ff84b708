"""A memory that gives only so much."""

import numpy as np
import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.metered import MeteredMemory


class Ones:
    """Every byte is 1."""

    def read(self, address: int, length: int) -> bytes:
        assert address >= 0
        return b"\1" * length


def test_small_reads_cost_a_page_each() -> None:
    memory = MeteredMemory(Ones(), 3 * 4096)
    assert [memory.read(0, 8) for _ in range(3)] == [b"\1" * 8] * 3
    with pytest.raises(UnreadableMemoryError, match="its limit"):
        memory.read(0, 8)
    memory.refill()
    assert memory.read(0, 3 * 4096)
    with pytest.raises(UnreadableMemoryError):
        memory.read(0, 1)


def test_a_bulk_read_costs_all_its_bytes() -> None:
    memory = MeteredMemory(Ones(), 8192)
    places = np.zeros(8, np.uint64)
    rows, good = memory.read_many(places, 1024)
    assert good.all()
    assert (rows == 1).all()
    rows, good = memory.read_many(places[:1], 16)
    assert rows.shape == (1, 16)
    assert not good.any()
    assert not rows.any()
