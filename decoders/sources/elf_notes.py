"""Notes of an ELF file: name, type, descriptor."""

import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

MAX_NOTES = 65536


class Note(NamedTuple):
    """One note: its owner's name without the NUL, its type, its contents."""

    name: str
    type: int
    data: bytes


def iter_notes(segment: bytes, order: Literal["<", ">"]) -> Iterator[Note]:
    """Yield the notes of a PT_NOTE segment (each part padded to 4 bytes).

    Ends quietly where the segment is cut short: what came before holds.
    """
    at = 0
    for _ in range(MAX_NOTES):
        if at + 12 > len(segment):
            return
        name_size, size, kind = struct.unpack_from(order + "III", segment, at)
        name_at = at + 12
        data_at = name_at + (name_size + 3 & ~3)
        if data_at + size > len(segment):
            return
        name = segment[name_at : name_at + name_size].rstrip(b"\0")
        yield Note(name.decode("ascii", "replace"), kind, segment[data_at : data_at + size])
        at = data_at + (size + 3 & ~3)


def build_notes(notes: Iterable[Note], order: Literal["<", ">"]) -> bytes:
    """Return the contents of a PT_NOTE segment that holds `notes`."""
    built = b""
    for note in notes:
        name = note.name.encode("ascii") + b"\0"
        built += struct.pack(order + "III", len(name), len(note.data), note.type)
        built += name + bytes(-len(name) % 4) + note.data + bytes(-len(note.data) % 4)
    return built
