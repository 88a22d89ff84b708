"""What the files of this folder share: a decoded field, and the way from a layout to fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from construct import Bitwise, Struct

from nestscope.decoders.errors import NestscopeError

ByteOrder = Literal["little", "big"]

Meaning = Callable[[int], str]
"""Says in words what the value of one field means."""


class WordError(NestscopeError):
    """A value cannot be the word that it was said to be."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a word.

    `isa_bits` counts as the Power ISA does: bit 0 is the most significant,
    `7:51` runs from bit 7 to bit 51. `value` is the raw content, right-aligned.
    """

    name: str
    isa_bits: str
    value: int
    meaning: str


def flag(clear: str, set_: str) -> Meaning:
    """Return the meaning of a one-bit field."""
    return lambda value: set_ if value else clear


def reserved(value: int) -> str:
    """Return the meaning of a reserved field: it should be 0."""
    return f"should be 0, is {value:#x}" if value else ""


def checked(value: int, bits: int = 64) -> int:
    """Return `value` if it is an unsigned number of at most `bits` bits.

    Raises:
        WordError: if it is not.
    """
    if not 0 <= value < 1 << bits:
        raise WordError(f"{value:#x} is not a word of {bits} bits: give an unsigned number")
    return value


def fields(layout: Struct, value: int, meanings: Mapping[str, Meaning]) -> list[Field]:
    """Cut `value` along `layout`, a Struct whose members count bits, most significant first.

    Every member appears, also the reserved ones. `meanings` may leave members out.

    Raises:
        WordError: if `value` does not fit the layout.
    """
    widths = [(member.name or "", member.sizeof()) for member in layout.subcons]
    total = sum(width for _, width in widths)
    parsed = Bitwise(layout).parse(checked(value, total).to_bytes(total // 8, "big"))
    found: list[Field] = []
    first = 0
    for name, width in widths:
        last = first + width - 1
        content = int(parsed[name])
        default = reserved if name.startswith("reserved") else hex
        found.append(
            Field(
                name=name,
                isa_bits=str(first) if width == 1 else f"{first}:{last}",
                value=content,
                meaning=meanings.get(name, default)(content),
            )
        )
        first += width
    return found
