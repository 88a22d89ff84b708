"""Partition table control register (SPR 464): Power ISA v3.1 Book III.

Also the argument of H_SET_PARTITION_TABLE, which Linux keeps in `kvm->arch.l1_ptcr`.
"""

from construct import BitsInteger, Bitwise, Struct

from .field import Field, fields
from .pate import PATE_SIZE

PTCR_BITS = Struct(
    "reserved_0" / BitsInteger(4),
    "patb" / BitsInteger(48),
    "reserved_52" / BitsInteger(7),
    "pats" / BitsInteger(5),
)
"""The bits of PTCR, most significant first. `patb` counts units of 4 KiB."""

PTCR = Bitwise(PTCR_BITS)
"""PTCR as 8 bytes, big-endian."""

PTCR_PATB = 0x0FFF_FFFF_FFFF_F000
PTCR_PATS = 0x1F
PTCR_RESERVED = 0xF000_0000_0000_0FE0


def partition_table(ptcr: int) -> int:
    """Return the address of the partition table, in bytes (PATB)."""
    return ptcr & PTCR_PATB


def partition_table_size(ptcr: int) -> int:
    """Return the size of the partition table, in bytes: 2**(PATS + 12)."""
    return 1 << (ptcr & PTCR_PATS) + 12


def partition_count(ptcr: int) -> int:
    """Return how many LPIDs the partition table has room for."""
    return partition_table_size(ptcr) // PATE_SIZE


def describe(value: int) -> list[Field]:
    """Return the fields of PTCR, given in host order.

    Raises:
        WordError: if `value` has more than 64 bits.
    """
    return fields(
        PTCR_BITS,
        value,
        {
            "patb": lambda number: f"partition table at {number << 12:#x}",
            "pats": lambda _: (
                f"{partition_count(value)} entries, {partition_table_size(value)} bytes"
            ),
        },
    )
