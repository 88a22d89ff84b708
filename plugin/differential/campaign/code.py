"""Functions of the running kernel as instructions, and words to put in their place."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel

WORD = 4
NOP = 0x6000_0000
BLR = 0x4E80_0020
LI_R3_0 = 0x3860_0000

_RLDICL = 30


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a function: its address, word and text; `callee` of a `bl`."""

    address: int
    word: int
    mnemonic: str
    operands: str
    callee: str = ""

    def is_(self, mnemonic: str, operands: str = "") -> bool:
        """Whether it has this mnemonic, and operands that the pattern finds."""
        return self.mnemonic == mnemonic and re.search(operands, self.operands) is not None


@dataclass(frozen=True, slots=True)
class Patch:
    """A word to be put at a kernel virtual address."""

    address: int
    word: int


Function = Sequence[Instruction]
Find = Callable[[Function], Iterator[Patch]]
"""Finds what is to be patched in a function; nothing if its code looks otherwise."""


def read_function(kernel: Kernel, name: str) -> list[Instruction]:
    """Disassemble a function of the running kernel, from its local entry.

    Raises:
        NestscopeError: if there is no such function, or capstone is not installed.
    """
    try:
        import capstone  # noqa: PLC0415  (optional)
    except ImportError:
        raise NestscopeError(
            "seeded defects need the Python package capstone: pip install 'nestscope[coverage]'"
        ) from None
    symbol = kernel.symbol(name)
    start = symbol.local_entry
    code = kernel.memory.read(start, symbol.address + symbol.size - start)
    # What KVM calls in the kernel proper goes through stubs, which have no names.
    tables = kernel.module_symbols.values()
    names = {table[each].local_entry: each for table in tables for each in table}
    order = capstone.CS_MODE_LITTLE_ENDIAN
    if kernel.byteorder == "big":
        order = capstone.CS_MODE_BIG_ENDIAN
    engine = capstone.Cs(capstone.CS_ARCH_PPC, capstone.CS_MODE_64 | order)
    engine.skipdata = True
    listing = []
    for at in range(0, len(code), WORD):
        word = int.from_bytes(code[at : at + WORD], kernel.byteorder)
        _, _, mnemonic, operands = next(engine.disasm_lite(code[at : at + WORD], start + at))
        target = int(operands, 16) if mnemonic == "bl" and operands.startswith("0x") else 0
        callee = names.get(target, "")
        listing.append(Instruction(start + at, word, mnemonic, operands.strip(), callee))
    return listing


def calls_of(callee: str, instead: int = NOP) -> Find:
    """Find the calls of a function (or of the compiler's copies of it: `NAME.isra.0`)."""

    def find(function: Function) -> Iterator[Patch]:
        for each in function:
            if each.callee.partition(".")[0] == callee:
                yield Patch(each.address, instead)

    return find


def entry(instead: int = BLR) -> Find:
    """Find the first instruction of a function."""

    def find(function: Function) -> Iterator[Patch]:
        yield Patch(function[0].address, instead)

    return find


def branches_after(mnemonic: str, operands: str, branch: str, within: int = 4) -> Find:
    """Find the branches soon after an instruction that decides them; they are not taken then."""

    def find(function: Function) -> Iterator[Patch]:
        for at, each in enumerate(function):
            if each.is_(mnemonic, operands):
                for later in function[at + 1 : at + 1 + within]:
                    if later.mnemonic == branch:
                        yield Patch(later.address, NOP)
                        break

    return find


def words_like(mnemonic: str, operands: str, change: Callable[[int], int]) -> Find:
    """Find instructions, and change their words."""

    def find(function: Function) -> Iterator[Patch]:
        for each in function:
            if each.is_(mnemonic, operands):
                yield Patch(each.address, change(each.word))

    return find


def with_mask_begin(word: int, begin: int) -> int:
    """Return an `rldicl` that keeps only the bits from `begin` (0 is the highest) on."""
    assert word >> 26 == _RLDICL
    return word & ~(0x3F << 5) | (begin & 0x1F) << 6 | (begin >> 5) << 5
