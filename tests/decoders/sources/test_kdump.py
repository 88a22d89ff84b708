"""kdump-compressed dumps: any packing, either byte order, whole, split and flattened."""

import struct
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.sources import kdump as kdump_file
from nestscope.decoders.sources.kdump import KdumpFile
from nestscope.decoders.sources.mapped import MappedFile, SourceFileError
from nestscope.decoders.sources.open import open_contents, open_source
from nestscope.decoders.sources.source_memory import SourceMemory
from nestscope.decoders.state import Source
from tests.decoders.sources.kdump_bytes import (
    BLOCK,
    LZO,
    RAW,
    SNAPPY,
    ZLIB,
    ZSTD,
    flattened,
    kdump,
)

PAGES = {
    3: bytes(range(256)) * 16,
    4: b"\xaa" * BLOCK,
    700: b"head" + bytes(BLOCK - 8) + b"tail",
}


def _open(folder: Path, data: bytes) -> SourceMemory:
    path = folder / "dump"
    path.write_bytes(data)
    return open_source(path)[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("flags", [RAW, ZLIB, LZO, SNAPPY, ZSTD])
def test_every_packing_in_either_byte_order(tmp_path: Path, order: str, flags: int) -> None:
    path = tmp_path / "dump"
    path.write_bytes(kdump(PAGES, order=order, flags=flags))
    memory, source = open_source(path)
    with memory:
        assert source == Source("kdump", "dump")
        assert memory.read(3 * BLOCK + 1, 3) == b"\1\2\3"
        assert memory.read(3 * BLOCK + 0xFFE, 4) == b"\xfe\xff\xaa\xaa"
        assert memory.read(700 * BLOCK, 4) == b"head"
        assert memory.read(701 * BLOCK - 4, 4) == b"tail"


def test_a_page_that_was_left_out_is_unreadable_and_not_zero(tmp_path: Path) -> None:
    with _open(tmp_path, kdump(PAGES)) as memory:
        for address in (0, 2 * BLOCK, 5 * BLOCK, 699 * BLOCK):
            with pytest.raises(UnreadableMemoryError, match="left out"):
                memory.read(address, 1)
        with pytest.raises(UnreadableMemoryError):
            memory.read(701 * BLOCK, 1)


def test_an_old_header_has_its_page_count_in_32_bits(tmp_path: Path) -> None:
    with _open(tmp_path, kdump(PAGES, version=4)) as memory:
        assert memory.read(700 * BLOCK, 4) == b"head"


def test_vmcoreinfo_is_found(tmp_path: Path) -> None:
    with _open(tmp_path, kdump(PAGES, order=">", vmcoreinfo=b"OSRELEASE=6.12\n")) as memory:
        assert isinstance(memory, KdumpFile)
        assert memory.vmcoreinfo() == b"OSRELEASE=6.12\n"
        assert memory.read(700 * BLOCK, 4) == b"head"


def test_the_parts_of_a_split_dump_are_one_memory(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a").write_bytes(kdump(PAGES, part=(0, 4)))
    (folder / "b").write_bytes(kdump(PAGES, part=(4, 701)))
    for name in (folder, f"{folder}/b,{folder}/a"):
        memory, source = open_source(name)
        with memory:
            assert source.kind == "split"
            assert memory.read(4 * BLOCK - 2, 4) == b"\xfe\xff\xaa\xaa"
            assert memory.read(700 * BLOCK, 4) == b"head"
            places = np.array([700 * BLOCK, 5 * BLOCK, *range(4 * BLOCK - 40, 4 * BLOCK, 2)])
            rows, good = memory.read_many(places.astype(np.uint64), 4)
            assert good.tolist() == [True, False] + [True] * 20
            assert rows[0].tobytes() == b"head"
            assert rows[-1].tobytes() == b"\xfe\xff\xaa\xaa"


def test_pieces_cut_by_size_are_no_parts(tmp_path: Path) -> None:
    data = kdump(PAGES)
    (tmp_path / "xaa").write_bytes(data[:5000])
    (tmp_path / "xab").write_bytes(data[5000:])
    with pytest.raises(SourceFileError):
        open_source(tmp_path)


def test_a_flattened_dump_is_put_in_order(tmp_path: Path) -> None:
    data = kdump(PAGES, order=">")
    cuts = [0, 100, 4096, 9000, len(data)]
    records = [(a, data[a:b]) for a, b in pairwise(cuts)]
    # Out of order, and the first header record is corrected later.
    made = flattened([(0, b"\xff" * 100), *records[::-1]])
    with _open(tmp_path, made) as memory:
        assert memory.read(700 * BLOCK, 4) == b"head"
        assert memory.read(3 * BLOCK + 0xFFE, 4) == b"\xfe\xff\xaa\xaa"


def test_a_truncated_flattened_dump_holds_what_is_there(tmp_path: Path) -> None:
    data = kdump(PAGES, flags=RAW)
    made = flattened([(0, data[:9000]), (9000, data[9000:])], end=False)
    with _open(tmp_path, made[:-2000]) as memory:
        assert memory.read(4 * BLOCK, 2) == b"\xaa\xaa"
        with pytest.raises(UnreadableMemoryError, match="cut short"):
            memory.read(700 * BLOCK, 4)


@pytest.mark.parametrize("flags", [ZLIB, LZO, SNAPPY, ZSTD])
def test_a_damaged_page_is_unreadable_and_its_neighbours_are_not(
    tmp_path: Path, flags: int
) -> None:
    data = bytearray(kdump(PAGES, flags=flags))
    descriptor = 4 * BLOCK  # of page 3: header, sub header, two bitmaps come before
    offset, size = struct.unpack_from("<QI", data, descriptor)
    data[offset : offset + size] = b"\xff" * size
    with _open(tmp_path, bytes(data)) as memory:
        with pytest.raises(UnreadableMemoryError, match=f"{offset:#x}"):
            memory.read(3 * BLOCK, 1)
        assert memory.read(4 * BLOCK, 1) == b"\xaa"


@pytest.mark.parametrize("flags", [ZLIB, LZO, SNAPPY, ZSTD])
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK + 1, 1000 * BLOCK])
def test_a_page_of_another_size_is_refused(tmp_path: Path, flags: int, size: int) -> None:
    with (
        _open(tmp_path, kdump({3: bytes(size)}, flags=flags)) as memory,
        pytest.raises(UnreadableMemoryError),
    ):
        memory.read(3 * BLOCK, 1)


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="cut short in its page bitmap"):
        _open(tmp_path, kdump(PAGES)[: 3 * BLOCK])
    with pytest.raises(SourceFileError, match="cut short in its header"):
        _open(tmp_path, kdump(PAGES)[:100])
    data = bytearray(kdump(PAGES))
    struct.pack_into("<I", data, 428, 12345)
    with pytest.raises(SourceFileError, match="0x3039"):
        _open(tmp_path, bytes(data))
    data = bytearray(kdump(PAGES))
    struct.pack_into("<I", data, 436, 1 << 31)  # bitmap blocks
    struct.pack_into("<Q", data, BLOCK + 96, 1 << 60)  # pages
    with pytest.raises(
        SourceFileError, match="too large to read; its header is damaged, or memory"
    ):
        _open(tmp_path, bytes(data))


@given(
    st.lists(st.integers(0, 6 * BLOCK) | st.integers(699 * BLOCK, 2**64 - 1), max_size=60),
    st.integers(1, 100),
)
def test_many_places_are_what_single_reads_say(
    tmp_path_factory: pytest.TempPathFactory, addresses: list[int], length: int
) -> None:
    with _open(tmp_path_factory.mktemp("many"), kdump(PAGES)) as memory:
        rows, good = memory.read_many(np.array(addresses, np.uint64), length)
        for address, row, readable in zip(addresses, rows, good, strict=True):
            try:
                expected = memory.read(address, length)
            except UnreadableMemoryError:
                assert not readable
                assert not row.any()
            else:
                assert readable
                assert row.tobytes() == expected


def test_of_many_places_one_may_lie_across_pages(tmp_path: Path) -> None:
    with _open(tmp_path, kdump(PAGES)) as memory:
        places = [4 * BLOCK - 3, *range(3 * BLOCK, 3 * BLOCK + 30), 701 * BLOCK - 3]
        rows, good = memory.read_many(np.array(places, np.uint64), 4)
        assert rows[0].tobytes() == b"\xfd\xfe\xff\xaa"
        assert good.tolist() == [True] * 31 + [False]


@given(st.sampled_from([False, True]), st.data())
def test_damaged_headers_never_surprise(
    tmp_path_factory: pytest.TempPathFactory, flat: bool, data: st.DataObject
) -> None:
    whole = kdump(PAGES)
    good = bytearray(flattened([(0, whole)]) if flat else whole)
    places = st.integers(16, 4200) if flat else st.integers(8, 560)
    edges = st.sampled_from([16, 24, 4096, 4104]) if flat else st.sampled_from([424, 432, 4192])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(places | edges)
        new = data.draw(st.binary(min_size=1, max_size=8))
        good[at : at + len(new)] = new
    cut = data.draw(st.integers(0, len(good)) | st.just(len(good)))
    try:
        with _open(tmp_path_factory.mktemp("damaged"), bytes(good[:cut]) + b"\0") as memory:
            memory.read(3 * BLOCK, 64)
            memory.read(700 * BLOCK, 64)
    except NestscopeError:
        pass


def test_a_bitmap_of_single_pages_is_not_listed_without_end(tmp_path: Path) -> None:
    dump = kdump({number: bytes(BLOCK) for number in range(1, 40, 2)})
    with patch.object(kdump_file, "MAX_RANGES", 20), _open(tmp_path, dump) as memory:
        assert len(memory.ranges()) == 20
    with patch.object(kdump_file, "MAX_RANGES", 19), _open(tmp_path, dump) as memory:
        assert memory.read(BLOCK, 8) == bytes(8)
        with pytest.raises(SourceFileError, match=r"more than 19 separate ranges .* at 0x"):
            memory.ranges()


@given(
    st.sets(st.integers(0, 200), min_size=1, max_size=60),
    st.none() | st.tuples(st.integers(0, 200), st.integers(0, 300)),
    st.sampled_from([1, 2, 7, 1 << 20]),
)
def test_ranges_are_those_of_the_pages_that_are_in_this_file(
    numbers: set[int], part: tuple[int, int] | None, piece: int
) -> None:
    """However many bytes of the bitmap are looked at together."""
    raw = kdump({number: bytes(BLOCK) for number in numbers}, part=part)
    with (
        patch.object(kdump_file, "_PIECE", piece),
        open_contents(MappedFile.holding(Path("dump"), raw)) as memory,
    ):
        found = memory.ranges()
    first, end = part or (0, 1 << 64)
    held = sorted(number for number in numbers if first <= number < end)
    assert [
        number for start, stop in found for number in range(start // BLOCK, stop // BLOCK)
    ] == held
    assert all(stop < start for (_, stop), (start, _) in pairwise(found))
