"""The kernel's byte order. (Radix tables are big-endian whatever it is.)"""

from typing import Literal

from nestscope.decoders.words.field import ByteOrder

__all__ = ["ByteOrder", "prefix"]


def prefix(byteorder: ByteOrder) -> Literal["<", ">"]:
    """Return the byte order character of `struct` and NumPy."""
    return "<" if byteorder == "little" else ">"
