"""Reading many places at once says the same as reading them one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.elf_core import ElfCore
from tests.decoders.sources.elf_bytes import elf_core

SEGMENTS = [(0x100, bytes(range(200))), (0x1C8, bytes(range(50))), (0x400, b"\xff" * 64)]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> ElfCore:
    path = tmp_path_factory.mktemp("core") / "dump"
    path.write_bytes(elf_core(SEGMENTS))
    return ElfCore(path)


@given(
    st.lists(st.integers(0, 0x480) | st.integers(2**64 - 32, 2**64 - 1), max_size=20),
    st.integers(1, 80),
)
def test_same_bytes_and_same_gaps(core: ElfCore, addresses: list[int], length: int) -> None:
    rows, good = core.read_many(np.array(addresses, np.uint64), length)
    assert rows.shape == (len(addresses), length)
    for address, row, readable in zip(addresses, rows, good, strict=True):
        try:
            expected = core.read(address, length)
        except UnreadableMemoryError:
            assert not readable
            assert row.tobytes() == bytes(length)
        else:
            assert readable
            assert row.tobytes() == expected


def test_one_place_among_many_may_lie_across_segments(core: ElfCore) -> None:
    places = np.array([0x100 + n for n in range(30)] + [0x1C6, 0x1FA], np.uint64)
    rows, good = core.read_many(places, 4)
    assert good.tolist() == [True] * 31 + [False]
    assert rows[30].tolist() == [198, 199, 0, 1]
    assert rows[3].tolist() == [3, 4, 5, 6]
