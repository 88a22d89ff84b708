"""Basic blocks of a module's functions, found with capstone.

A block begins at the function's local entry, at the target of a branch, and after
an instruction that may branch. A call does not end a block: it returns. The two
instructions before the local entry, which only callers from other modules run
(ELFv2 ABI: they set r2), are no block, and neither is what fills up a cache line
after a branch that is always taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.coverage.module_text import (
    Function,
    ModuleText,
    ModuleTextError,
)

try:
    import capstone
except ImportError as error:
    raise NestscopeError(
        "coverage needs the Python package capstone: pip install 'nestscope[coverage]'"
    ) from error

WORD = 4
_LINK = 1  # LK, the last bit of every branch
_ALWAYS = frozenset({"b", "blr", "bctr"})
# What the assembler aligns code with (rs6000_emit nops; `ori` ends a dispatch group).
_PADDING = frozenset({"nop", "ori     r1, r1, 0", "ori     r2, r2, 0"})


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its offset, and its text with the names of what it calls."""

    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A basic block: offset of its first byte and of the first after it; its instructions."""

    start: int
    end: int
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class FunctionBlocks:
    """A function and its blocks, ascending.

    `jump_table`: it has a branch through the count register, whose targets are not
    among the leaders, so that blocks may be longer than they are.
    """

    function: Function
    blocks: tuple[Block, ...]
    jump_table: bool

    def relative(self, block: Block) -> int:
        """Return the block's distance in bytes from the function's symbol."""
        return block.start - self.function.offset


def find_functions(text: ModuleText, patterns: Iterable[str]) -> list[Function]:
    """Return the functions whose name in the source matches one of `patterns`, by offset.

    Raises:
        ModuleTextError: for a pattern that matches none.
    """
    found: set[Function] = set()
    for pattern in patterns:
        some = {f for f in text.functions.values() if fnmatchcase(f.source_name, pattern)}
        if not some:
            raise ModuleTextError(
                f"{text.image.name} has no function {pattern}: the compiler may have inlined it; "
                "name the function that calls it"
            )
        found |= some
    return sorted(found, key=lambda function: function.offset)


def find_blocks(text: ModuleText, function: Function) -> FunctionBlocks:
    """Return the basic blocks of a function."""
    decoder = capstone.Cs(
        capstone.CS_ARCH_PPC,
        capstone.CS_MODE_64
        | (
            capstone.CS_MODE_LITTLE_ENDIAN
            if text.image.byteorder == "little"
            else capstone.CS_MODE_BIG_ENDIAN
        ),
    )
    decoder.detail = True
    # An instruction that capstone does not know is no branch: it knows all of those.
    decoder.skipdata = True
    inside = range(function.local_entry, function.end)
    targets = {function.local_entry} | {label for label in text.labels if label in inside}
    # What comes after a branch, and whether control can come there from above.
    follows: dict[int, bool] = {}
    listing: list[Instruction] = []
    jump_table = False
    for found in decoder.disasm(text.code(function), function.local_entry):
        at = found.address
        listing.append(Instruction(at, _describe(found, text, function)))
        is_branch = found.id != 0 and found.group(capstone.CS_GRP_JUMP)
        linked = int.from_bytes(found.bytes, text.image.byteorder) & _LINK
        if at in text.branches or (is_branch and not linked):
            follows[at + WORD] = at in text.branches or found.mnemonic not in _ALWAYS
        if is_branch and not linked:
            target = _target(found, text)
            if target is not None and target in inside:
                targets.add(target)
            jump_table |= found.mnemonic == "bctr"
    blocks = tuple(
        block
        for block in _cut(listing, targets | follows.keys())
        if block.start in targets or follows[block.start] or not _is_padding(block)
    )
    return FunctionBlocks(function, blocks, jump_table)


def _is_padding(block: Block) -> bool:
    return all(instruction.text in _PADDING for instruction in block.instructions)


def _cut(listing: Sequence[Instruction], leaders: set[int]) -> Iterable[Block]:
    """Yield the blocks of a listing."""
    run: list[Instruction] = []
    for instruction in listing:
        if run and instruction.offset in leaders:
            yield Block(run[0].offset, instruction.offset, tuple(run))
            run = []
        run.append(instruction)
    if run:
        yield Block(run[0].offset, run[-1].offset + WORD, tuple(run))


def _target(found: capstone.CsInsn, text: ModuleText) -> int | None:
    """Return the offset that a branch goes to; None if a register or another file says it."""
    if found.address in text.calls:
        return text.calls[found.address][1]
    numbers = [o.imm for o in found.operands if o.type == capstone.ppc.PPC_OP_IMM]
    return int(numbers[-1]) if numbers else None


def _describe(found: capstone.CsInsn, text: ModuleText, function: Function) -> str:
    """Return an instruction as text; offsets are the function's own, as a debugger shows them."""
    if found.id == 0:
        return f".long   0x{int.from_bytes(found.bytes, text.image.byteorder):08x}"
    operands = found.op_str
    if found.group(capstone.CS_GRP_JUMP):
        name, target = text.calls.get(found.address, ("", _target(found, text)))
        if target is not None and function.offset <= target < function.end:
            name = f"+{target - function.offset:#x}"
        if name:
            *others, _ = operands.split(", ")
            operands = ", ".join([*others, name])
    return f"{found.mnemonic:<7} {operands}".rstrip()
