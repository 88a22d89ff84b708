import numpy as np
import pytest

from nestscope.decoders.sources.protocol import BulkMemory, Memory, read_many

from .memories import BulkSparseMemory, SparseMemory


@pytest.mark.parametrize("kind", [SparseMemory, BulkSparseMemory])
def test_every_row_that_can_be_read_is_read_and_the_others_are_flagged(kind):
    memory = kind()
    memory.put(0x1000, 0x0102030405060708)
    memory.put(0x1008, 0x11)
    memory.put(0x3000, 0x22)
    memory.put(0x3008, 0x33)
    addresses = np.array([0x3000, 0x2000, 0x1000], np.uint64)
    rows, good = read_many(memory, addresses, 16)
    assert good.tolist() == [True, False, True]
    assert rows.view(">u8").tolist() == [[0x22, 0x33], [0, 0], [0x0102030405060708, 0x11]]


@pytest.mark.parametrize("kind", [SparseMemory, BulkSparseMemory])
def test_no_addresses_give_no_rows(kind):
    rows, good = read_many(kind(), np.empty(0, np.uint64), 16)
    assert rows.shape == (0, 16)
    assert good.shape == (0,)


def test_a_memory_with_a_bulk_read_is_asked_once():
    class Counting(BulkSparseMemory):
        bulk_calls = 0

        def read_many(self, addresses, length):
            self.bulk_calls += 1
            return super().read_many(addresses, length)

    memory = Counting()
    read_many(memory, np.arange(100, dtype=np.uint64), 8)
    assert memory.bulk_calls == 1


def test_the_protocols_tell_the_two_kinds_apart():
    assert isinstance(SparseMemory(), Memory)
    assert not isinstance(SparseMemory(), BulkMemory)
    assert isinstance(BulkSparseMemory(), BulkMemory)
