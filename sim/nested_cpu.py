"""The processor while it runs a nested guest: a few instructions, real mode, little-endian.

What the hardware does with an access is its shadow leaf's to say (`sim.hardware`);
here are the registers, and what each instruction wants of memory. Only instructions
that the payload and the stub are made of are known, and those that end a jump to data:
words of primary opcode 0 are none of the Power ISA
but for `attn`.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from nestscope.sim.constants import EFFECTIVE_BITS, U64
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.payload import BRANCH_TO_SELF, INSTRUCTION

VECTOR_DSI: Final = 0x300
VECTOR_DSEG: Final = 0x380
VECTOR_ISEG: Final = 0x480
VECTOR_SYSCALL: Final = 0xC00
NESTED_MSR: Final = 0x8000_0000_0000_1001
"""SF, ME and LE: 64-bit little-endian real mode."""

_ADDI, _CMPI, _BC, _SC, _B, _LD, _STD = 14, 11, 16, 17, 18, 58, 62
_BCLR, _BCCTR, _MTCTR = 0x4E80_0020, 0x4E80_0420, 0x7C09_03A6
_EXTENDED, _ATTN = 0x7FE, 0x200
_LINK = 1
_IF_SET, _IF_CLEAR = 12, 4

End = Literal["syscall", "illegal", "loop"]


class Wanted(NamedTuple):
    """An access of 8 bytes that an instruction wants: `register` is its source or target."""

    kind: Literal["load", "store"]
    address: int
    register: int


@dataclass(slots=True)
class NestedCpu:
    """Registers; `msr` None after the nested guest took an interrupt of its own."""

    gpr: list[int] = field(default_factory=lambda: [0] * 32)
    nip: int = 0
    msr: int | None = NESTED_MSR
    lr: int = 0
    ctr: int = 0
    cr0: tuple[bool, bool, bool] = (False, False, False)

    def interrupt(self, vector: int) -> None:
        """Go on at one of the nested guest's own interrupt vectors."""
        self.nip = vector
        self.msr = None

    def execute(self, word: int) -> Wanted | End | None:
        """Execute the instruction at `nip`; an access is only named, and `nip` stays on it.

        Raises:
            UnmodelledError: for an instruction that is not known.
        """
        opcode = word >> 26
        if opcode == 0 and word & _EXTENDED != _ATTN:
            return "illegal"
        target, base = word >> 21 & 31, word >> 16 & 31
        if opcode in (_LD, _STD) and not word & 3:
            offset = _signed(word & 0xFFFC, 16)
            address = ((self.gpr[base] if base else 0) + offset) & U64
            return Wanted("load" if opcode == _LD else "store", address, target)
        if opcode == _SC and word & ~0x20 == 0x4400_0002:
            self.nip += INSTRUCTION
            if word & 0x20:
                return "syscall"
            self.interrupt(VECTOR_SYSCALL)
            return None
        if word == BRANCH_TO_SELF:
            return "loop"
        following = self._branch(word, opcode)
        if following is None:
            self._compute(word, opcode)
            following = self.nip + INSTRUCTION
        self.nip = following & U64
        return None

    def _branch(self, word: int, opcode: int) -> int | None:
        """Return where a branch leads, None if the instruction is none."""
        after = self.nip + INSTRUCTION
        condition, bit = word >> 21 & 31, word >> 16 & 31
        if opcode == _B and not word & 3:
            return self.nip + _signed(word & 0x03FF_FFFC, 26)
        if opcode == _BC and not word & 3 and condition in (_IF_SET, _IF_CLEAR) and bit < 3:
            taken = self.cr0[bit] == (condition == _IF_SET)
            return self.nip + _signed(word & 0xFFFC, 16) if taken else after
        if word == _BCLR:
            return self.lr & ~3
        if word & ~_LINK == _BCCTR:
            if word & _LINK:
                self.lr = after
            return self.ctr & ~3
        return None

    def _compute(self, word: int, opcode: int) -> None:
        """Execute an instruction that changes registers only."""
        target, base = word >> 21 & 31, word >> 16 & 31
        if opcode == _ADDI:
            value = (self.gpr[base] if base else 0) + _signed(word & 0xFFFF, 16)
            self.gpr[target] = value & U64
        elif opcode == _CMPI and target == 1:  # cmpdi of CR field 0
            left, right = _signed(self.gpr[base], 64), _signed(word & 0xFFFF, 16)
            self.cr0 = (left < right, left > right, left == right)
        elif word & ~(31 << 21) == _MTCTR:
            self.ctr = self.gpr[target]
        else:
            raise UnmodelledError(f"a nested guest executes the instruction {word:#010x}")

    def complete(self, wanted: Wanted, loaded: int) -> None:
        """Finish an access that went through."""
        if wanted.kind == "load":
            self.gpr[wanted.register] = loaded
        self.nip += INSTRUCTION


def nested_real_address(effective: int) -> int | None:
    """Return the nested real address of a real mode effective address.

    None where the processor raises a segment interrupt in the nested guest instead:
    bits 2 to 11 must be 0, and bits 0 and 1 may not choose the hypervisor's quadrants
    (`ppc_radix64_get_fully_qualified_addr` of QEMU).
    """
    if effective & ~EFFECTIVE_BITS in (0, 0xC000_0000_0000_0000):
        return effective & EFFECTIVE_BITS
    return None


def _signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)
