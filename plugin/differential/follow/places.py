"""Where to stop in a function: at its entry and where it returns, read from its instructions.

A vCPU that is to run on from a breakpoint must get past the instruction under it. GDB
takes all breakpoints out, steps once (a stop of its own), and puts them back. Two
instructions need no step, because where a vCPU is after them is known: the `nop` that
the compiler leaves for ftrace before the prologue, and `blr`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.kernel.kernel import Kernel

WORD = 4
"""Bytes of an instruction."""
_NOP = 0x6000_0000  # ori 0,0,0
_MFLR_R0 = 0x7C08_02A6
_BLR = 0x4E80_0020
_BEFORE_NOP = 2
"""Instructions that are looked at for the `nop`; at it r1, r3 to r10 and LR are the caller's."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a function is stopped at.

    `entry` is its `nop` if `skip`, else its local entry. `exits` are all its returns,
    empty if it may leave in another way than by `blr`.
    """

    entry: int
    skip: bool
    exits: tuple[int, ...]


def places_of(kernel: Kernel, name: str) -> Places:
    """Return the places of a function, from the kernel's memory as it is now.

    Raises:
        UnreadableMemoryError: if its instructions cannot be read.
        KeyError: if there is no such function.
    """
    symbol = kernel.symbol(name)
    first = symbol.local_entry
    length = max(symbol.address + symbol.size - first, 0) & -WORD
    data = kernel.memory.read(first, length)
    order = "<" if kernel.byteorder == "little" else ">"
    return find_places(np.frombuffer(data, f"{order}u4"), first)


def find_places(instructions: Sequence[int] | NDArray[np.uint32], first: int) -> Places:
    """Return the places of a function whose instructions begin at its local entry `first`."""
    entry, skip = first, False
    for at, word in enumerate(instructions[:_BEFORE_NOP]):
        if word == _NOP:
            entry, skip = first + WORD * at, True
            break
        if word != _MFLR_R0:
            break
    exits = []
    end = first + WORD * len(instructions)
    for at, word in enumerate(instructions):
        place = first + WORD * at
        if word == _BLR:
            exits.append(place)
        elif leaves(int(word), place, first, end):
            return Places(entry, skip, ())
    return Places(entry, skip, tuple(exits))


def leaves(word: int, place: int, first: int, end: int) -> bool:
    """Say whether the instruction `word` at `place` may leave `first` to `end`, without a link.

    Power ISA, Book I, 2.4: b and bc (opcodes 18, 16), bclr, bcctr, bctar (opcode 19).
    """
    opcode, linked = word >> 26, word & 1
    if linked:
        return False
    if opcode == 19:
        return word >> 1 & 0x3FF in (16, 528, 560)
    if opcode == 18:
        target = _signed(word & 0x03FF_FFFC, 26)
    elif opcode == 16:
        target = _signed(word & 0xFFFC, 16)
    else:
        return False
    return not first <= target + (0 if word & 2 else place) < end


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value
