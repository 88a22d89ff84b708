"""The machine code of the guest: its stub and the payload of its nested guests.

The same instructions as in the agent's `payload.S` (a test compares the bytes),
little-endian. The model has them because nested guests may read, write or map the
pages that they lie in.
"""

import struct
from typing import Final

INSTRUCTION: Final = 4

LI_R3: Final = 0x3860_0000
SC_1: Final = 0x4400_0022
BRANCH_TO_SELF: Final = 0x4800_0000
FIRST_VECTOR, LAST_VECTOR, VECTOR_STEP = 0x100, 0xFE0, 0x20


def _code(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


STUB: Final = _code(
    0xE87F_0000,  # ld r3, 0(r31): number and arguments
    0xE89F_0008,
    0xE8BF_0010,
    0xE8DF_0018,
    0xE8FF_0020,
    0xE91F_0028,
    0xE93F_0030,
    0xE95F_0038,
    SC_1,
    0xF87F_0080,  # std r3, 0x80(r31): results
    0xF89F_0088,
    0x3860_7FF0,  # li r3, 0x7ff0: done
    SC_1,
    BRANCH_TO_SELF - 13 * INSTRUCTION & 0x03FF_FFFC | BRANCH_TO_SELF,
)
"""Executes the hypercall in its mailbox (r31), then leaves to the VMM."""

_ACCESS = _code(
    0x2C24_0001,  # cmpdi r4, 1
    0x4182_0010,  # beq: store
    0x4181_0014,  # bgt: jump
    0xE8A3_0000,  # ld r5, 0(r3)
    0x4800_0014,
    0xF8A3_0000,  # std r5, 0(r3)
    0x4800_000C,
    0x7C69_03A6,  # mtctr r3
    0x4E80_0421,  # bctrl
    0x3860_0000,  # li r3, 0
    SC_1,
    BRANCH_TO_SELF,
)


def _vector(address: int) -> bytes:
    return _code(LI_R3 | address, SC_1, BRANCH_TO_SELF, 0, 0, 0, 0, 0)


PAYLOAD: Final = _ACCESS.ljust(FIRST_VECTOR, b"\0") + b"".join(
    _vector(address) for address in range(FIRST_VECTOR, LAST_VECTOR + 1, VECTOR_STEP)
)
"""Does one access as r3, r4 and r5 say, then `sc 1`; every interrupt vector ends in `sc 1`."""
