"""The initramfs archive, read back by a parser of its own and by cpio where there is one."""

import io
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.qemu.cpio import Entry, write_cpio

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=30)


def members(archive: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    """Parse newc by the format's own rules: 13 fields of 8 hex digits, 4-byte alignment."""
    found, at = [], 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        assert archive[at + 110 + name_size - 1] == 0
        data_at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found.append((name, mode, archive[data_at : data_at + size], (fields[9], fields[10])))
        at = (data_at + size + 3) & ~3


def written(entries: list[Entry]) -> bytes:
    out = io.BytesIO()
    write_cpio(out, entries)
    return out.getvalue()


def test_directory_device_and_file() -> None:
    archive = written(
        [Entry("dev"), Entry("dev/console", device=(5, 1)), Entry("init", b"\x7fELF")]
    )
    assert members(archive) == [
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("init", 0o100755, b"\x7fELF", (0, 0)),
    ]


@given(st.lists(st.tuples(NAMES, st.binary(max_size=50)), max_size=5))
def test_every_name_and_content_comes_back(files: list[tuple[str, bytes]]) -> None:
    got = members(written([Entry(name, data) for name, data in files]))
    assert [(name, data) for name, _, data, _ in got] == files


def test_equal_entries_give_equal_bytes() -> None:
    assert written([Entry("a", b"1")]) == written([Entry("a", b"1")])


def test_cpio_lists_it() -> None:
    if shutil.which("cpio") is None:
        pytest.skip("there is no cpio to compare with: install cpio")
    archive = written([Entry("dev"), Entry("odd", b"12345"), Entry("init", b"x")])
    done = subprocess.run(["cpio", "-t"], input=archive, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["dev", "odd", "init"]
