"""Endpoints as users write them: each wrong one is a sentence, never another exception."""

from pathlib import Path

import pytest

from nestscope.plugin.mi.endpoint import elf_endian, gdb_target
from nestscope.plugin.mi.errors import MiError, TargetError


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("", "no gdbstub is named"),
        ("localhost", "neither a socket's path nor HOST:PORT"),
        ("localhost:", "neither a socket's path nor HOST:PORT"),
        (":x", "neither a socket's path nor HOST:PORT"),
        ("localhost:0", "neither a socket's path nor HOST:PORT"),
        ("localhost:65536", "neither a socket's path nor HOST:PORT"),
        ("localhost:\u00b2", "neither a socket's path nor HOST:PORT"),  # a superscript two
        ("a" * 80 + ":1234", "the host of 'aaa"),  # a label has at most 63 letters
        ("no-such-host.invalid:1234", "the host of 'no-such-host.invalid:1234' is unknown"),
        ("/nowhere/gdb.sock", "no gdbstub at /nowhere/gdb.sock: No such file"),
    ],
)
def test_what_leads_nowhere_is_one_sentence(endpoint: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        gdb_target(endpoint)


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    file = tmp_path / "dump"
    file.touch()
    with pytest.raises(TargetError, match="is not a socket"):
        gdb_target(str(file))


def test_a_port_without_a_host_is_this_machines() -> None:
    assert gdb_target(":1234") == "tcp:localhost:1234"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\2\3" + bytes(10), bytes(16)])
def test_what_is_no_elf_file_has_no_byte_order(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(content)
    with pytest.raises(MiError, match="is not an ELF file"):
        elf_endian(file)


def test_the_byte_order_is_that_of_the_identification(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    for data, order in ((1, "little"), (2, "big")):
        file.write_bytes(b"\x7fELF\2" + bytes([data]) + bytes(10))
        assert elf_endian(file) == order
