"""The journal: whatever a kill leaves, the whole entries are there."""

from pathlib import Path

import pytest

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.journal import Journal, write_whole


def test_entries_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("begin", seeds=[1, 2])
        journal.append("program", name="seed1", steps=400)
    with Journal(path) as journal:
        assert journal.entries == [
            {"event": "begin", "seeds": [1, 2]},
            {"event": "program", "name": "seed1", "steps": 400},
        ]


@pytest.mark.parametrize("left", range(1, 20))
def test_a_line_that_a_kill_cut_short_is_no_entry(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("program", name="seed1")
        whole = path.stat().st_size
        journal.append("program", name="seed2")
    with path.open("r+b") as file:
        file.truncate(whole + left)
    with Journal(path) as journal:
        assert [entry["name"] for entry in journal.entries] == ["seed1"]
        journal.append("program", name="seed3")
    with Journal(path) as journal:
        assert [entry["name"] for entry in journal.entries] == ["seed1", "seed3"]


def test_two_campaigns_cannot_share_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(NestscopeError, match="in use by another campaign"):
        Journal(path)
    Journal(path).close()


def test_a_file_that_is_no_journal_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "begin"}\nhello\n')
    with pytest.raises(NestscopeError, match=r"line 2 of .* is no entry"):
        Journal(path)
    assert path.read_text() == '{"event": "begin"}\nhello\n'


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trace"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["trace"]


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NestscopeError, match="cannot be written"):
        write_whole(tmp_path / "file" / "trace", b"one")
