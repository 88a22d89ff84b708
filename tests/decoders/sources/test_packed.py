"""Files packed with xz, gzip or zstd are read as what is in them."""

import gzip
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from nestscope.decoders.sources import packed
from nestscope.decoders.sources.mapped import SourceFileError
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import Source
from tests.decoders.sources.elf_bytes import elf_core
from tests.decoders.sources.kdump_bytes import flattened, kdump

Packer = Callable[[bytes], bytes]
PACKERS: dict[str, Packer] = {
    "xz": lzma.compress,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
with_every_packer = pytest.mark.parametrize("name", sorted(PACKERS))


def _write(folder: Path, data: bytes) -> Path:
    path = folder / "dump.packed"
    path.write_bytes(data)
    return path


@with_every_packer
def test_what_is_inside_is_recognised(tmp_path: Path, name: str) -> None:
    pack = PACKERS[name]
    memory, source = open_source(_write(tmp_path, pack(elf_core([(0x100, b"abcd")], order=">"))))
    with memory:
        assert source == Source("elf-core", "dump.packed")
        assert memory.read(0x100, 4) == b"abcd"
    inside = flattened([(0, kdump({5: b"x" * 4096}))])
    memory, source = open_source(_write(tmp_path, pack(inside)))
    with memory:
        assert source.kind == "kdump"
        assert memory.read(5 * 4096, 2) == b"xx"
    memory, source = open_source(_write(tmp_path, pack(b"raw memory")))
    with memory:
        assert source.kind == "raw"
        assert memory.read(4, 6) == b"memory"


@with_every_packer
def test_two_streams_after_each_other_are_one_file(tmp_path: Path, name: str) -> None:
    pack = PACKERS[name]
    memory, _ = open_source(_write(tmp_path, pack(b"first") + pack(b"second")))
    with memory:
        assert memory.read(0, 11) == b"firstsecond"


@with_every_packer
def test_much_goes_to_a_file_that_is_removed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spills = tmp_path / "spills"
    spills.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spills))
    monkeypatch.setattr(packed, "IN_MEMORY", 1 << 20)
    data = b"begin" + bytes(5 << 20) + b"middle" + bytes(3 << 20)
    memory, _ = open_source(_write(tmp_path, PACKERS[name](data)))
    with memory:
        assert list(spills.iterdir()) == []
        assert memory.read(0, 6) == b"begin\0"
        assert memory.read(5 + (5 << 20), 7) == b"middle\0"
        assert memory.read(len(data) - 1, 1) == b"\0"


@with_every_packer
def test_a_bomb_is_refused_by_its_size(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "MIN_LIMIT", 8 << 20)
    monkeypatch.setattr(packed, "MAX_RATIO", 2)
    with pytest.raises(SourceFileError, match="more than 8 MiB"):
        open_source(_write(tmp_path, PACKERS[name](bytes(12 << 20))))


@with_every_packer
def test_a_truncated_or_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    data = PACKERS[name](bytes(range(256)) * 1000)
    damaged = data[:12] + b"\xff" * 40 + data[52:]
    for bad in (damaged, data[:-8]):
        with pytest.raises(SourceFileError, match=name):
            open_source(_write(tmp_path, bad))


def test_a_file_packed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="packed twice"):
        open_source(_write(tmp_path, gzip.compress(lzma.compress(b"x"))))
