"""Partition table entry of a radix partition: Power ISA v3.1 Book III.

Two doublewords, big-endian in memory. The first locates the partition-scoped
tree, the second the process table. Linux writes both in
`mmu_partition_table_set_entry` and `kvmhv_set_ptbl_entry`.
"""

from construct import Bit, BitsInteger, Bitwise, Struct

from .field import Field, checked, fields, flag

PATE0_BITS = Struct(
    "hr" / Bit,
    "rts1" / BitsInteger(2),
    "reserved_3" / Bit,
    "rpdb" / BitsInteger(52),
    "rts2" / BitsInteger(3),
    "rpds" / BitsInteger(5),
)
"""First doubleword. `rpdb` counts units of 256 bytes, RTS is `rts1 || rts2`."""

PATE1_BITS = Struct(
    "gr" / Bit,
    "reserved_1" / BitsInteger(3),
    "prtb" / BitsInteger(48),
    "reserved_52" / BitsInteger(7),
    "prts" / BitsInteger(5),
)
"""Second doubleword. `prtb` counts units of 4 KiB. `gr` is no longer architected (PATB_GR)."""

PATE = Struct("dw0" / Bitwise(PATE0_BITS), "dw1" / Bitwise(PATE1_BITS))
"""A partition table entry as it lies in memory: 16 bytes, big-endian."""

PATE_SIZE = 16

PATE_HR = 1 << 63
PATE_RTS1 = 0x6000_0000_0000_0000
PATE_RPDB = 0x0FFF_FFFF_FFFF_FF00
PATE_RTS2 = 0xE0
PATE_RPDS = 0x1F
PATE0_RESERVED = 1 << 60

PATE_GR = 1 << 63
PATE_PRTB = 0x0FFF_FFFF_FFFF_F000
PATE_PRTS = 0x1F
PATE1_RESERVED = 0x7000_0000_0000_0FE0

RTS_BASE = 31
"""A radix tree maps 2**(RTS + 31) bytes."""


def rts(dw0: int) -> int:
    """Return the radix tree size field, RTS1 || RTS2."""
    return (dw0 & PATE_RTS1) >> 58 | (dw0 & PATE_RTS2) >> 5


def address_bits(dw0: int) -> int:
    """Return how many address bits the tree translates: RTS + 31."""
    return rts(dw0) + RTS_BASE


def root_table(dw0: int) -> int:
    """Return the address of the root page directory, in bytes (RPDB)."""
    return dw0 & PATE_RPDB


def root_bits(dw0: int) -> int:
    """Return the number of address bits that index the root directory (RPDS)."""
    return dw0 & PATE_RPDS


def process_table(dw1: int) -> int:
    """Return the address of the process table, in bytes (PRTB)."""
    return dw1 & PATE_PRTB


def process_table_size(dw1: int) -> int:
    """Return the size of the process table, in bytes: 2**(PRTS + 12)."""
    return 1 << (dw1 & PATE_PRTS) + 12


def make_dw0(table: int, bits: int, translated: int = 52, *, hr: bool = True) -> int:
    """Return a first doubleword: root `table` (bytes), `2**bits` entries, `translated` bits.

    Raises:
        ValueError: if a value does not fit its field.
    """
    size = translated - RTS_BASE
    if table & ~PATE_RPDB or bits & ~PATE_RPDS or not 0 <= size < 32:
        raise ValueError(
            f"no PATE can hold root {table:#x} of {bits} bits for {translated} address bits"
        )
    return (PATE_HR if hr else 0) | (size >> 3) << 61 | table | (size & 7) << 5 | bits


def describe_root(layout: Struct, dw0: int) -> list[Field]:
    """Return the fields of a doubleword that locates a tree (PATE or process table entry)."""
    return fields(
        layout,
        dw0,
        {
            "hr": flag("hash page table", "host uses radix"),
            "rts1": lambda _: f"with RTS2: tree of 2^{address_bits(dw0)} bytes",
            "rpdb": lambda number: f"root directory at {number << 8:#x}",
            "rts2": lambda _: f"RTS is {rts(dw0)}",
            "rpds": lambda number: f"{1 << number} entries, {8 << number} bytes",
        },
    )


def describe_dw1(value: int) -> list[Field]:
    """Return the fields of the second doubleword, given in host order.

    Raises:
        WordError: if `value` has more than 64 bits.
    """
    return fields(
        PATE1_BITS,
        value,
        {
            "gr": flag("", "guest uses radix (not architected any more)"),
            "prtb": lambda number: f"process table at {number << 12:#x}",
            "prts": lambda _: f"{process_table_size(value)} bytes",
        },
    )


def describe(value: int) -> list[Field]:
    """Return the fields of a partition table entry, given in host order.

    A value of up to 64 bits is the first doubleword alone, a longer one is
    both, `dw0 << 64 | dw1`.

    Raises:
        WordError: if `value` has more than 128 bits.
    """
    if value < 1 << 64:
        return describe_root(PATE0_BITS, value)
    high, low = divmod(checked(value, 128), 1 << 64)
    return describe_root(PATE0_BITS, high) + describe_dw1(low)
