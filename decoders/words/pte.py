"""Radix page table entry (leaf): Power ISA v3.1 Book III, radix tree translation.

A PTE is a doubleword with V and L set, big-endian in memory whatever the byte
order of the kernel (Linux: pgtable-be-types.h). Masks below are for the value
in host order.
"""

from dataclasses import dataclass

from construct import Bit, BitsInteger, Bitwise, Struct

from .field import Field, fields, flag

PTE_BITS = Struct(
    "v" / Bit,
    "l" / Bit,
    "sw0" / Bit,
    "reserved_3" / BitsInteger(4),
    "rpn" / BitsInteger(45),
    "sw1" / Bit,
    "sw2" / Bit,
    "sw3" / Bit,
    "r" / Bit,
    "c" / Bit,
    "reserved_57" / Bit,
    "att" / BitsInteger(2),
    "eaa" / BitsInteger(4),
)
"""The bits of a PTE, most significant first. `rpn` counts frames of 4 KiB."""

PTE = Bitwise(PTE_BITS)
"""A PTE as it lies in memory: 8 bytes, big-endian."""

PTE_V = 1 << 63
PTE_L = 1 << 62
PTE_SW0 = 1 << 61
PTE_RPN = 0x01FF_FFFF_FFFF_F000
PTE_SW1 = 0x800
PTE_SW2 = 0x400
PTE_SW3 = 0x200
PTE_R = 0x100
PTE_C = 0x80
PTE_ATT = 0x30
PTE_EAA = 0xF
PTE_EAA_PRIVILEGED = 8
PTE_EAA_READ = 4
PTE_EAA_WRITE = 2
PTE_EAA_EXECUTE = 1
PTE_RESERVED = 0x1E00_0000_0000_0040

PTE_LEAF = PTE_V | PTE_L
"""A word with both set is a leaf, at any level."""

PTE_SW = PTE_SW0 | PTE_SW1 | PTE_SW2 | PTE_SW3
"""Bits left to software; hardware ignores them.

Linux: SW0 = _PAGE_INVALID (meaningful only while V is clear; `pte_present()`
counts such a word as present, hardware does not), SW1 = _PAGE_DEVMAP (older
kernels only), SW2 = _PAGE_SPECIAL, SW3 = _PAGE_SOFT_DIRTY. Host and shadow
leaves are copies of a host *user* PTE, so they inherit these: mask them before
two leaves are compared.
"""

PTE_RPN_SHIFT = 12

ATT_NAMES = ("normal memory", "strong access order", "non-idempotent I/O", "tolerant I/O")


@dataclass(frozen=True, slots=True)
class Permissions:
    """Encoded access authority (EAA) of a PTE. `privileged` has no effect in partition scope."""

    privileged: bool
    read: bool
    write: bool
    execute: bool

    def __str__(self) -> str:
        flags = zip("prwx", (self.privileged, self.read, self.write, self.execute), strict=True)
        return "".join(letter if on else "-" for letter, on in flags)


def is_leaf(word: int) -> bool:
    """Return whether `word` is a PTE: V and L set."""
    return word & PTE_LEAF == PTE_LEAF


def rpn(pte: int) -> int:
    """Return the real page number, in frames of 4 KiB."""
    return (pte & PTE_RPN) >> PTE_RPN_SHIFT


def real_address(pte: int) -> int:
    """Return the real address of the page, in bytes. For a huge page, low bits should be 0."""
    return pte & PTE_RPN


def permissions(pte: int) -> Permissions:
    """Return the EAA bits, each as it is written (write does not add read here)."""
    return Permissions(
        privileged=bool(pte & PTE_EAA_PRIVILEGED),
        read=bool(pte & PTE_EAA_READ),
        write=bool(pte & PTE_EAA_WRITE),
        execute=bool(pte & PTE_EAA_EXECUTE),
    )


def describe(value: int) -> list[Field]:
    """Return the fields of a PTE, given in host order.

    Raises:
        WordError: if `value` has more than 64 bits.
    """
    invalid = "" if value & PTE_V else " (Linux: _PAGE_INVALID, being changed)"
    return fields(
        PTE_BITS,
        value,
        {
            "v": flag("not valid", "valid"),
            "l": flag("not a leaf: read it as a PDE", "leaf"),
            "sw0": flag("", f"software bit{invalid}"),
            "rpn": lambda number: f"real address {number << PTE_RPN_SHIFT:#x}",
            "sw1": flag("", "software bit (Linux: _PAGE_DEVMAP in older kernels)"),
            "sw2": flag("", "software bit (Linux: _PAGE_SPECIAL)"),
            "sw3": flag("", "software bit (Linux: _PAGE_SOFT_DIRTY)"),
            "r": flag("not referenced", "referenced"),
            "c": flag("not changed", "changed"),
            "att": lambda number: ATT_NAMES[number],
            "eaa": lambda number: str(permissions(number)),
        },
    )
