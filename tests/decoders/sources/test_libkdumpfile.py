"""A dump through libkdumpfile holds the same bytes as through our own reader."""

import ctypes.util
import os
from pathlib import Path

import numpy as np
import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.libkdumpfile import LibKdumpFile
from nestscope.decoders.sources.mapped import SourceFileError
from nestscope.decoders.sources.open import open_source

from .kdump_bytes import BLOCK, LZO, RAW, SNAPPY, ZLIB, ZSTD, flattened, kdump

installed = pytest.mark.skipif(
    ctypes.util.find_library("kdumpfile") is None,
    reason="libkdumpfile is not installed (Debian: libkdumpfile10)",
)
PAGES = {
    0: bytes(range(256)) * 16,
    3: b"\xaa" * BLOCK,
    4: os.urandom(64) * 64,
    700: b"head" + bytes(BLOCK - 4),
}


@installed
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("flags", [RAW, ZLIB, LZO, SNAPPY, ZSTD])
def test_both_readers_give_the_same_bytes(tmp_path: Path, order: str, flags: int) -> None:
    path = tmp_path / "dump"
    path.write_bytes(kdump(PAGES, order=order, flags=flags))
    ours, _ = open_source(path)
    theirs, source = open_source(f"kdumpfile:{path}")
    places = np.array([0, BLOCK, 3 * BLOCK + 5, 700 * BLOCK, *range(8, 400, 8)], np.uint64)
    with ours, theirs:
        assert source.kind == "libkdumpfile"
        assert isinstance(theirs, LibKdumpFile)
        assert theirs.ranges() == ours.ranges()
        for number, page in PAGES.items():
            assert theirs.read(number * BLOCK, BLOCK) == page == ours.read(number * BLOCK, BLOCK)
        assert theirs.read(4 * BLOCK - 2, 4) == ours.read(4 * BLOCK - 2, 4)
        for one, other in zip(theirs.read_many(places, 8), ours.read_many(places, 8), strict=True):
            assert one.tolist() == other.tolist()
        for memory in (ours, theirs):
            with pytest.raises(UnreadableMemoryError, match="left out of dump"):
                memory.read(BLOCK, 8)


@installed
def test_a_flattened_dump_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(flattened([(0, kdump(PAGES))]))
    with pytest.raises(SourceFileError, match="makedumpfile -R"):
        open_source(f"kdumpfile:{path}")


@installed
def test_a_file_that_is_no_such_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(bytes(100_000))
    with pytest.raises(SourceFileError, match="not a kdump-compressed dump"):
        open_source(f"kdumpfile:{path}")


@installed
def test_closing_lets_go_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(kdump(PAGES))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    memory, _ = open_source(f"kdumpfile:{path}")
    memory.close()
    memory.close()
    assert len(list(descriptors.iterdir())) == before


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nestscope.decoders.sources import libkdumpfile

    libkdumpfile._library.cache_clear()
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    with pytest.raises(SourceFileError, match="libkdumpfile10"):
        open_source(f"kdumpfile:{tmp_path}")
    libkdumpfile._library.cache_clear()
