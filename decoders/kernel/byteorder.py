"""The kernel's byte order. (Radix tables are big-endian whatever it is.)"""

from typing import Literal

ByteOrder = Literal["little", "big"]


def prefix(byteorder: ByteOrder) -> Literal["<", ">"]:
    """Return the byte order character of `struct` and NumPy."""
    return "<" if byteorder == "little" else ">"
