"""The notes of a capture, damaged on purpose: each is refused with the reason."""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestscope.decoders.captured import (
    NOTE_NAME,
    NOTE_PROFILE,
    NOTE_RUN,
    CaptureError,
    captured_profile,
    open_capture,
)
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.elf_notes import Note
from nestscope.decoders.sources.mapped import MappedFile
from nestscope.plugin.samples import sample_path


@pytest.fixture(scope="module")
def core() -> Iterator[ElfCore]:
    data = lzma.decompress(sample_path("sample:6.12-64k").read_bytes())
    with ElfCore(MappedFile.holding(Path("sample"), data)) as memory:
        yield memory


def with_run(core: ElfCore, **changed: Any) -> list[Note]:
    """The capture's notes, with members of the note of the run changed."""
    (profile,) = (note for note in core.notes if note.type == NOTE_PROFILE)
    (run,) = (note for note in core.notes if (note.name, note.type) == (NOTE_NAME, NOTE_RUN))
    document = json.loads(run.data) | changed
    return [profile, Note(NOTE_NAME, NOTE_RUN, json.dumps(document).encode())]


def test_the_note_of_the_run_says_what_a_profile_cannot(core: ElfCore) -> None:
    told = {"unreadable": [["0x40000000", 8, "gone"]], "page_shift": 12}
    memory, kernel = open_capture(core, with_run(core, **told))
    assert kernel.page_shift == 12
    with pytest.raises(UnreadableMemoryError, match="gone"):
        memory.read(0x4000_0000, 8)


@pytest.mark.parametrize(
    "changed",
    [
        {"page_shift": 16.0},
        {"page_shift": "16"},
        {"page_shift": 11},
        {"page_shift": 25},
        {"pgd": 1},
        {"pgd": "-0x1"},
        {"pgd": "0x1" + "0" * 16},
        {"schema": "nestscope.capture/0"},
        {"unreadable": [["0x0", float("inf"), "why"]]},
        {"unreadable": [["0x0", 8.0, "why"]]},
        {"unreadable": [["0x0", -8, "why"]]},
        {"unreadable": [["0x0", 8]]},
        {"problems": [{"path": "vms"}]},
        {"module_symbols": {"kvm": ["vm_list"]}},
    ],
    ids=str,
)
def test_a_member_that_cannot_be_is_refused(core: ElfCore, changed: dict[str, Any]) -> None:
    with pytest.raises(CaptureError):
        open_capture(core, with_run(core, **changed))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_a_note_that_is_no_json_object_is_refused(core: ElfCore, text: bytes) -> None:
    profile = with_run(core)[0]
    with pytest.raises(CaptureError, match="capture it again"):
        open_capture(core, [profile, Note(NOTE_NAME, NOTE_RUN, text)])


def test_a_capture_without_its_profile_is_refused() -> None:
    with pytest.raises(CaptureError, match="lost its note"):
        captured_profile([Note("OTHER", NOTE_PROFILE, b"{}"), Note(NOTE_NAME, NOTE_RUN, b"{}")])
