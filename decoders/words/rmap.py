"""The nested reverse map: packed words and `struct rmap_nested`.

`memslot->arch.rmap` is an array of words, one for each guest frame, in the
kernel's own byte order. A word is empty (0), a single entry (bit 0 set) or a
pointer to the first `struct rmap_nested` of a list. The last node's `next`
holds the last entry, packed, with bit 0 set. Source: Linux, arch/powerpc,
kvm_book3s_64.h (RMAP_NESTED_*) and `kvmhv_insert_nest_rmap`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from construct import (
    Adapter,
    Bit,
    BitsInteger,
    Bitwise,
    ByteSwapped,
    Construct,
    Container,
    Int64ub,
    Int64ul,
    Struct,
)

from .field import ByteOrder, Field, checked, fields, flag, reserved

RMAP_LPID = 0xFFF0_0000_0000_0000
RMAP_LPID_SHIFT = 52
RMAP_GPA = 0x000F_FFFF_FFFF_F000
RMAP_SINGLE = 1
RMAP_RESERVED = 0xFFE
"""Bits that the kernel never sets in an entry."""

ENTRY_BITS = Struct(
    "l1_lpid" / BitsInteger(12),
    "n_gpa" / BitsInteger(40),
    "reserved_52" / BitsInteger(11),
    "single" / Bit,
)
"""A packed entry, most significant bit first. `n_gpa` counts frames of 4 KiB."""

ENTRY: Final[dict[ByteOrder, "Construct[Container[Any], dict[str, Any] | None]"]] = {
    "big": Bitwise(ENTRY_BITS),
    "little": ByteSwapped(Bitwise(ENTRY_BITS)),
}
"""A packed entry as it lies in memory: 8 bytes."""


@dataclass(frozen=True, slots=True)
class Empty:
    """No entry: the word is 0. In a node's `next` it is the middle of an insertion."""


@dataclass(frozen=True, slots=True)
class Single:
    """One packed entry with bit 0 set. `n_gpa` in bytes; `reserved` are bits 52:62, raw."""

    l1_lpid: int
    n_gpa: int
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class ListPointer:
    """A kernel virtual address of a `struct rmap_nested`."""

    node: int


RmapWord = Empty | Single | ListPointer

if TYPE_CHECKING:
    _RmapAdapter = Adapter[int, int, RmapWord, RmapWord]
else:
    _RmapAdapter = Adapter  # not a generic class at run time


class _RmapWordAdapter(_RmapAdapter):
    """Between the word as a number and its three forms."""

    def _decode(self, obj: int, context: object, path: object) -> RmapWord:  # noqa: ARG002
        return decode_word(obj)

    def _encode(self, obj: RmapWord, context: object, path: object) -> int:  # noqa: ARG002
        return encode_word(obj)


RMAP_WORD: Final[dict[ByteOrder, "Construct[RmapWord, RmapWord]"]] = {
    "big": _RmapWordAdapter(Int64ub),
    "little": _RmapWordAdapter(Int64ul),
}
"""A word of the rmap array, or a node's `next`, as it lies in memory: 8 bytes."""

RMAP_NESTED: Final[dict[ByteOrder, Struct]] = {
    order: Struct("next" / RMAP_WORD[order], "rmap" / ENTRY[order]) for order in ("big", "little")
}
"""`struct rmap_nested` as it lies in memory: 16 bytes."""

RMAP_NESTED_SIZE = 16


def l1_lpid(word: int) -> int:
    """Return the guest's name for the nested guest of a packed entry."""
    return (word & RMAP_LPID) >> RMAP_LPID_SHIFT


def n_gpa(word: int) -> int:
    """Return the nested real address of a packed entry, in bytes (a multiple of 4 KiB)."""
    return word & RMAP_GPA


def make_entry(lpid: int, address: int, *, single: bool = False) -> int:
    """Return a packed entry; `single` sets bit 0. `address` is an n_gpa in bytes.

    The low 12 bits of `address` are dropped, as `kvmhv_nested_page_fault` does.

    Raises:
        ValueError: if a value does not fit its field.
    """
    if not 0 <= lpid < 1 << 12 or not 0 <= address < 1 << RMAP_LPID_SHIFT:
        raise ValueError(f"no rmap entry can hold lpid {lpid}, n_gpa {address:#x}")
    return lpid << RMAP_LPID_SHIFT | address & RMAP_GPA | (RMAP_SINGLE if single else 0)


def decode_word(word: int) -> RmapWord:
    """Return which of the three forms `word` has. Never fails."""
    if word == 0:
        return Empty()
    if word & RMAP_SINGLE:
        return Single(l1_lpid(word), n_gpa(word), (word & RMAP_RESERVED) >> 1)
    return ListPointer(word)


def encode_word(form: RmapWord) -> int:
    """Return the word of a form.

    Raises:
        ValueError: if a value does not fit, or a list pointer would read as another form.
    """
    if isinstance(form, Empty):
        return 0
    if isinstance(form, Single):
        if form.n_gpa & ~RMAP_GPA or not 0 <= form.reserved < 1 << 11:
            raise ValueError(f"no rmap entry can hold {form}")
        return make_entry(form.l1_lpid, form.n_gpa, single=True) | form.reserved << 1
    if not 0 < form.node < 1 << 64 or form.node & RMAP_SINGLE:
        raise ValueError(f"{form.node:#x} cannot be a list pointer")
    return form.node


_POINTER_BITS = Struct("node" / BitsInteger(64))


def describe(value: int) -> list[Field]:
    """Return the fields of an rmap word, given in host order.

    Raises:
        WordError: if `value` has more than 64 bits.
    """
    form = decode_word(checked(value))
    if isinstance(form, Empty):
        return [Field("word", "0:63", 0, "no entry")]
    if isinstance(form, ListPointer):
        meaning = "list: struct rmap_nested at this address; as a node's entry it would be " + (
            f"l1_lpid {l1_lpid(value)}, n_gpa {n_gpa(value):#x}"
        )
        return fields(_POINTER_BITS, value, {"node": lambda _: meaning})
    return fields(
        ENTRY_BITS,
        value,
        {
            "l1_lpid": lambda number: f"the guest's LPID {number}",
            "n_gpa": lambda number: f"nested real address {number << 12:#x}",
            "reserved_52": reserved,
            "single": flag("", "single entry, or last of a list"),
        },
    )
