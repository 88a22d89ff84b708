"""Files that the user asked for: whole, or not there."""

import os
from pathlib import Path

import pytest

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.output import new_file, new_path


def test_what_was_written_is_there_at_the_end_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with new_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "ending", [NestscopeError("a reason"), KeyboardInterrupt(), OSError(28, "full")]
)
def test_what_fails_leaves_the_file_that_was_there(tmp_path: Path, ending: BaseException) -> None:
    path = tmp_path / "dump.elf"
    path.write_bytes(b"before")
    kind = NestscopeError if isinstance(ending, OSError) else type(ending)
    with pytest.raises(kind), new_file(path) as file:
        file.write(b"part")
        raise ending
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    with new_file(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode == usual.stat().st_mode


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_file(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


def test_a_device_is_written_to_directly() -> None:
    says = "/dev/full cannot be written: No space left"
    with pytest.raises(NestscopeError, match=says), new_file(Path("/dev/full")) as file:
        file.write(b"x")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("name", ["", "no/folder", "n" * 300])
def test_what_cannot_be_made_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(NestscopeError, match="cannot be written: "), new_file(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with new_file(path) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_another_program_may_write_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dump.elf"
    with new_path(path) as part:
        assert part.parent == tmp_path
        part.write_bytes(b"by QEMU")
        part.chmod(0o400)
    assert path.read_bytes() == b"by QEMU"
    with pytest.raises(KeyboardInterrupt), new_path(path) as part:
        part.write_bytes(b"by QEMU, half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"by QEMU"
    assert list(tmp_path.iterdir()) == [path]
