"""What was read is remembered, and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.plugin.dumps.recording import RecordingMemory


class Low:
    """Memory up to 0x4000; byte n is n modulo 251."""

    def read(self, address: int, length: int) -> bytes:
        if address + length > 0x4000:
            raise UnreadableMemoryError(address, length, "too high")
        return bytes((address + n) % 251 for n in range(length))


PLACES = st.lists(st.integers(0, 0x5000), max_size=10)


@given(PLACES, PLACES, st.integers(1, 40), st.sampled_from([1, 16, 4096]))
def test_ranges_cover_what_was_read_and_touch_every_grain_of_it(
    singles: list[int], many: list[int], length: int, grain: int
) -> None:
    memory = RecordingMemory(Low())
    expected: set[int] = set()
    for address in singles:
        try:
            assert memory.read(address, length) == Low().read(address, length)
        except UnreadableMemoryError:
            assert memory.failures[(address, length)] == "too high"
    _, good = memory.read_many(np.array(many, np.uint64), length)
    assert good.tolist() == [address + length <= 0x4000 for address in many]
    for address in (*singles, *many):
        if address + length <= 0x4000:
            expected |= {n // grain for n in range(address, address + length)}
    found = memory.ranges(grain)
    assert {n for start, end in found for n in range(start // grain, end // grain)} == expected
    assert all(start % grain == end % grain == 0 for start, end in found)
    assert all(end < start for (_, end), (start, _) in pairwise(found))


def test_failures_are_raised_as_before() -> None:
    with pytest.raises(UnreadableMemoryError, match="too high"):
        RecordingMemory(Low()).read(0x4000, 1)
