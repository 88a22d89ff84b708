"""Radix page directory entry: Power ISA v3.1 Book III, radix tree translation.

A PDE is a doubleword with V set and L clear, big-endian in memory whatever the
byte order of the kernel. It leads to the next table.
"""

from construct import Bit, BitsInteger, Bitwise, Struct

from .field import Field, fields, flag

PDE_BITS = Struct(
    "v" / Bit,
    "l" / Bit,
    "reserved_2" / BitsInteger(2),
    "nlb" / BitsInteger(52),
    "reserved_56" / BitsInteger(3),
    "nls" / BitsInteger(5),
)
"""The bits of a PDE, most significant first. `nlb` counts units of 256 bytes."""

PDE = Bitwise(PDE_BITS)
"""A PDE as it lies in memory: 8 bytes, big-endian."""

PDE_V = 1 << 63
PDE_L = 1 << 62
PDE_NLB = 0x0FFF_FFFF_FFFF_FF00
PDE_NLS = 0x1F
PDE_RESERVED = 0x3000_0000_0000_00E0

PDE_NLB_SHIFT = 8


def is_pde(word: int) -> bool:
    """Return whether `word` leads to a next table: V set, L clear."""
    return word & (PDE_V | PDE_L) == PDE_V


def next_table(pde: int) -> int:
    """Return the address of the next table, in bytes (NLB)."""
    return pde & PDE_NLB


def next_bits(pde: int) -> int:
    """Return the number of address bits that index the next table (NLS): 2**NLS entries."""
    return pde & PDE_NLS


def make_pde(table: int, bits: int) -> int:
    """Return a valid PDE that leads to `table` (bytes, 256-aligned) of `2**bits` entries.

    Raises:
        ValueError: if a value does not fit its field.
    """
    if table & ~PDE_NLB or bits & ~PDE_NLS:
        raise ValueError(f"no PDE can hold table {table:#x} of {bits} bits")
    return PDE_V | table | bits


def describe(value: int) -> list[Field]:
    """Return the fields of a PDE, given in host order.

    Raises:
        WordError: if `value` has more than 64 bits.
    """
    return fields(
        PDE_BITS,
        value,
        {
            "v": flag("not valid", "valid"),
            "l": flag("leads to a next table", "leaf: read it as a PTE"),
            "nlb": lambda number: f"next table at {number << PDE_NLB_SHIFT:#x}",
            "nls": lambda number: f"{1 << number} entries, {8 << number} bytes",
        },
    )
