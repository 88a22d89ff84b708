"""A kernel from the notes of a capture: no vmlinux, no modules, no search.

`nestscope capture` writes an ordinary ELF core with two notes named "NESTSCOPE".
Type 2 is a profile (`kernel.profile`): release, build id, byte order, symbols,
and the layouts that the readers ask for. Type 1 is JSON with what a profile
cannot know, because it is of this run (addresses are strings "0x..."):

    {"schema": "nestscope.capture/1", "page_shift": 16, "pgd": "0x1520000",
     "module_symbols": {"kvm": {"vm_list": "0xc008..."}},
     "problems": [{"path": "modules", "message": "...", "address": "0x..." or null}],
     "unreadable": [["0x40000000", 8, "..."]]}

`unreadable` says why reads of the original failed (address, bytes, reason), so
that the capture gives the same answer word for word.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.kernel.symbols import Symbol, SymbolTable
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.sources.elf_notes import Note
from nestscope.decoders.sources.protocol import Memory, Rows
from nestscope.decoders.sources.source_memory import SourceMemory
from nestscope.decoders.state import Problem

NOTE_NAME = "NESTSCOPE"
NOTE_RUN = 1
NOTE_PROFILE = 2
SCHEMA = "nestscope.capture/1"
_PAGE_SHIFTS = range(12, 25)


class CaptureError(NestscopeError):
    """The notes of a capture are missing or damaged."""


def is_capture(notes: Sequence[Note]) -> bool:
    """Say whether a core with these notes is a capture."""
    return _find(notes, NOTE_RUN) is not None


def captured_profile(notes: Sequence[Note]) -> Profile:
    """Return the profile in a capture's notes.

    Raises:
        CaptureError: if there is none.
        ProfileError: if it is damaged.
    """
    data = _find(notes, NOTE_PROFILE)
    if data is None:
        raise CaptureError("the capture has lost its note with the profile; capture it again")
    return Profile.from_json(data, "the profile in the capture")


class CapturedMemory(SourceMemory):
    """The memory of a capture. What the original could not read fails for the same reason."""

    def __init__(self, core: SourceMemory, reasons: Mapping[tuple[int, int], str]) -> None:
        """Take over `core`; `reasons` are by address and length of the read."""
        self.kind = core.kind
        self.name = core.name
        self._core = core
        self._reasons = reasons

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if the capture does not hold all of them.
        """
        try:
            return self._core.read(address, length)
        except UnreadableMemoryError as error:
            reason = self._reasons.get((address, length))
            if reason is None:
                raise
            raise UnreadableMemoryError(address, length, reason) from error

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, and which rows are good (see `BulkMemory`)."""
        return self._core.read_many(addresses, length)

    def ranges(self) -> list[tuple[int, int]]:
        """Return what the capture holds (see `SourceMemory`)."""
        return self._core.ranges()

    def close(self) -> None:
        """Close the core. Closing twice is harmless."""
        self._core.close()


def open_capture(core: SourceMemory, notes: Sequence[Note]) -> tuple[CapturedMemory, Kernel]:
    """Return a capture's memory, and the kernel that its notes describe.

    Raises:
        CaptureError: if a note is missing or damaged.
        ProfileError: if the profile is damaged.
    """
    profile = captured_profile(notes)
    try:
        run = json.loads(_find(notes, NOTE_RUN) or b"")
        reasons = {
            (_address(address), _number(length)): str(why)
            for address, length, why in run["unreadable"]
        }
        memory = CapturedMemory(core, reasons)
        return memory, _kernel(memory, run, profile)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise CaptureError(f"the capture's notes are damaged ({why}); capture it again") from error


def _find(notes: Sequence[Note], kind: int) -> bytes | None:
    found = (note.data for note in notes if note.name == NOTE_NAME and note.type == kind)
    return next(found, None)


def _kernel(memory: Memory, run: dict[str, Any], profile: Profile) -> Kernel:
    if run["schema"] != SCHEMA:
        raise CaptureError(
            f"the capture has the schema {run['schema']!r}, not {SCHEMA}: "
            "it was made by another version of nestscope"
        )
    page_shift = _number(run["page_shift"])
    if page_shift not in _PAGE_SHIFTS:
        raise ValueError(f"page_shift is {page_shift}")
    return Kernel(
        release=profile.release,
        page_shift=page_shift,
        byteorder=profile.byteorder,
        symbols=SymbolTable.of_symbols(profile.symbols.values()),
        types=Types([profile]),
        memory=KernelMemory(memory, _address(run["pgd"]), profile.byteorder),
        module_symbols={
            str(module): SymbolTable.of_symbols(
                Symbol(name, _address(text), 0, _address(text)) for name, text in names.items()
            )
            for module, names in run["module_symbols"].items()
        },
        problems=[
            Problem(
                str(row["path"]),
                str(row["message"]),
                None if row["address"] is None else _address(row["address"]),
            )
            for row in run["problems"]
        ],
    )


def _address(text: str) -> int:
    return _number(int(text, 16))


def _number(value: int) -> int:
    """Refuse what JSON has beside whole numbers: 16.0 would pass for 16."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no address or count")
    return value
