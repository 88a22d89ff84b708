"""A file of 1 TiB is opened without being read."""

import resource
import struct
from pathlib import Path

import pytest

from nestscope.decoders.sources.open import open_source
from tests.decoders.sources.elf_bytes import elf_core
from tests.decoders.sources.kdump_bytes import BLOCK, kdump

TIB = 1 << 40


def _sparse(path: Path, head: bytes, tail: bytes) -> None:
    with path.open("wb") as file:
        file.write(head)
        try:
            file.truncate(TIB)
        except OSError:
            pytest.skip("this file system has no files of 1 TiB")
        file.seek(TIB - len(tail))
        file.write(tail)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB


def test_a_raw_image_of_1_tib(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    _sparse(path, b"first", b"last")
    before = _peak()
    for name in (str(path), f"ram:{path}"):
        memory, _ = open_source(name)
        with memory:
            assert memory.read(0, 5) == b"first"
            assert memory.read(TIB - 4, 4) == b"last"
            assert memory.read(TIB // 2, 8) == bytes(8)
    assert _peak() - before < 64 << 10


def test_an_elf_core_of_1_tib(tmp_path: Path) -> None:
    path = tmp_path / "core"
    head = bytearray(elf_core([(0x10_0000, b"page")]))
    # One segment, the second program header, reaches to the end of the file.
    offset = struct.unpack_from("<Q", head, 128 + 56 + 8)[0]
    struct.pack_into("<QQ", head, 128 + 56 + 32, TIB - offset, TIB - offset)
    _sparse(path, bytes(head), b"last")
    before = _peak()
    memory, _ = open_source(path)
    with memory:
        assert memory.read(0x10_0000, 4) == b"page"
        assert memory.read(0x10_0000 + TIB - offset - 4, 4) == b"last"
    assert _peak() - before < 64 << 10


def test_a_kdump_of_1_tib_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "kdump"
    last = TIB // BLOCK - 1
    path.write_bytes(kdump({0: b"a" * BLOCK, last: b"z" * BLOCK}))
    before = _peak()
    memory, _ = open_source(path)
    with memory:
        assert memory.read(0, 1) == b"a"
        assert memory.read(TIB - 1, 1) == b"z"
    assert _peak() - before < 200 << 10
