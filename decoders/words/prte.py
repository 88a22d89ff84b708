"""Process table entry of a radix process: Power ISA v3.1 Book III.

Two doublewords, big-endian in memory. The first is laid out like that of a
partition table entry, without HR: the helpers of `pate` (`rts`, `root_table`,
`root_bits`) apply. Linux: `struct prtb_entry`, whose second word is unused on radix.
"""

from construct import Bit, BitsInteger, Bitwise, Int64ub, Struct

from .field import Field, checked, fields
from .pate import describe_root

PRTE0_BITS = Struct(
    "reserved_0" / Bit,
    "rts1" / BitsInteger(2),
    "reserved_3" / Bit,
    "rpdb" / BitsInteger(52),
    "rts2" / BitsInteger(3),
    "rpds" / BitsInteger(5),
)
"""First doubleword. `rpdb` counts units of 256 bytes, RTS is `rts1 || rts2`."""

PRTE = Struct("dw0" / Bitwise(PRTE0_BITS), "dw1" / Int64ub)
"""A process table entry as it lies in memory: 16 bytes, big-endian."""

PRTE_SIZE = 16

PRTE0_RESERVED = 0x9000_0000_0000_0000

_DW1_BITS = Struct("reserved_0" / BitsInteger(64))


def describe(value: int) -> list[Field]:
    """Return the fields of a process table entry, given in host order.

    A value of up to 64 bits is the first doubleword alone, a longer one is
    both, `dw0 << 64 | dw1`.

    Raises:
        WordError: if `value` has more than 128 bits.
    """
    if value < 1 << 64:
        return describe_root(PRTE0_BITS, value)
    high, low = divmod(checked(value, 128), 1 << 64)
    return describe_root(PRTE0_BITS, high) + fields(_DW1_BITS, low, {})
