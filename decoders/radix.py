"""The radix tree walker: one address, level by level, with every way to fail named.

Any split of the address into levels is walked; how strict the walk is says a
`Profile`. `LINUX` is `kvmppc_mmu_walk_radix_tree` (book3s_64_mmu_radix.c), check
for check and in its order; `QEMU` is `ppc64_radix64_walk_tree` with
`ppc_radix64_is_valid_level` (mmu-radix64.c); `ISA` accepts every geometry.
"""

from dataclasses import dataclass, field
from typing import Self

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.radix_faults import (
    BadLevelSize,
    LeafAtRoot,
    MisalignedPage,
    MisalignedTable,
    NoLeaf,
    NotPresent,
    UnreadableTable,
    UnsupportedTreeSize,
    WalkFault,
)
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.words import pate, pde, pte
from nestscope.decoders.words.pte import Permissions

ENTRY_SIZE = 8
MIN_PAGE_SHIFT = 12
"""RPN counts frames of 4 KiB, so no page is smaller."""


@dataclass(frozen=True, slots=True)
class RadixRoot:
    """Where a tree starts: table address (bytes), log2 of its entries, address bits in all."""

    table: int
    bits: int
    address_bits: int = 52

    @classmethod
    def from_dw0(cls, dw0: int) -> Self:
        """Take the root from the first doubleword of a partition or process table entry."""
        return cls(pate.root_table(dw0), pate.root_bits(dw0), pate.address_bits(dw0))


@dataclass(frozen=True, slots=True)
class Profile:
    """How strict a walk is.

    `address_bits` are the tree sizes accepted, None for any. `level_bits` are
    the table sizes accepted at each depth from the root, None for any that
    leaves pages of at least 4 KiB. With `mask_misaligned`, low bits of a table
    base or of a huge page's RPN are dropped; otherwise they are a fault.
    """

    name: str
    address_bits: frozenset[int] | None
    level_bits: tuple[frozenset[int], ...] | None
    mask_misaligned: bool
    leaf_at_root: bool
    write_implies_read: bool


_P9_LEVELS = (frozenset({13}), frozenset({9}), frozenset({9}), frozenset({5, 9}))

LINUX = Profile("linux", frozenset({52}), _P9_LEVELS, False, False, False)
QEMU = Profile("qemu", frozenset({52}), _P9_LEVELS, True, True, True)
ISA = Profile("isa", None, None, False, True, True)


@dataclass(frozen=True, slots=True)
class Step:
    """One level of a walk. `level` counts from the root, which is 0; `shift` is what is left.

    `kind` is "leaf", "table" or "not present" and says how `word` reads.
    """

    level: int
    table: int
    bits: int
    index: int
    entry_address: int
    word: int
    kind: str
    shift: int


@dataclass(frozen=True, slots=True)
class FoundLeaf:
    """What an address translates to: `real_address` has the offset in the page added."""

    pte: int
    shift: int
    real_address: int
    permissions: Permissions
    referenced: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """A finished walk: the levels that were read, then exactly one of `leaf` and `fault`."""

    address: int
    root: RadixRoot
    profile: str
    steps: tuple[Step, ...] = field(default=())
    leaf: FoundLeaf | None = None
    fault: WalkFault | None = None


def walk(memory: Memory, root: RadixRoot | int, address: int, profile: Profile = LINUX) -> Walk:
    """Translate `address` through the tree at `root`, reading big-endian words from `memory`.

    `root` is a `RadixRoot` or the first doubleword of a PATE or process table
    entry. `memory` takes the addresses that the tree holds: physical for a
    host's tree, guest real for a guest's. Address bits above the tree's size
    are ignored, as Linux and QEMU do. Every level takes at least one address
    bit, so a walk is bounded whatever the memory holds. Nothing is raised for
    what memory holds or lacks: the answer's `fault` says it.
    """
    start = root if isinstance(root, RadixRoot) else RadixRoot.from_dw0(root)
    steps: list[Step] = []
    outcome = _descend(memory, start, address, profile, steps)
    found = outcome if isinstance(outcome, FoundLeaf) else None
    fault = outcome if isinstance(outcome, WalkFault) else None
    return Walk(address, start, profile.name, tuple(steps), found, fault)


def _descend(
    memory: Memory, root: RadixRoot, address: int, profile: Profile, steps: list[Step]
) -> FoundLeaf | WalkFault:
    if profile.address_bits is not None and root.address_bits not in profile.address_bits:
        return UnsupportedTreeSize(root.address_bits)
    table, bits, shift = root.table, root.bits, root.address_bits
    for level in range(root.address_bits):
        if profile.level_bits is not None and level == len(profile.level_bits):
            break
        wrong = _check_table(profile, level, table, bits, shift)
        if wrong is not None:
            return wrong
        table -= table % (ENTRY_SIZE << bits)
        shift -= bits
        index = (address >> shift) & ((1 << bits) - 1)
        place = table + index * ENTRY_SIZE
        try:
            word = int.from_bytes(memory.read(place, ENTRY_SIZE), "big")
        except UnreadableMemoryError as error:
            return UnreadableTable(level, place, error.why)
        kind = _kind(word)
        steps.append(Step(level, table, bits, index, place, word, kind, shift))
        if kind == "not present":
            return NotPresent(level, place, word)
        if kind == "leaf":
            return _leaf(word, address, level, shift, profile)
        if shift <= MIN_PAGE_SHIFT:
            break
        table, bits = pde.next_table(word), pde.next_bits(word)
    return NoLeaf(len(steps))


def _check_table(
    profile: Profile, level: int, table: int, bits: int, shift: int
) -> WalkFault | None:
    """Check a table before it is read: first its size, then its alignment, as Linux does."""
    if profile.level_bits is None:
        size_allowed = 1 <= bits <= shift - MIN_PAGE_SHIFT
    else:
        size_allowed = bits in profile.level_bits[level]
    if not size_allowed:
        return BadLevelSize(level, bits)
    if table % (ENTRY_SIZE << bits) and not profile.mask_misaligned:
        return MisalignedTable(level, table, bits)
    return None


def _kind(word: int) -> str:
    if not word & pte.PTE_V:
        return "not present"
    return "leaf" if word & pte.PTE_L else "table"


def _leaf(
    word: int, address: int, level: int, shift: int, profile: Profile
) -> FoundLeaf | WalkFault:
    if level == 0 and not profile.leaf_at_root:
        return LeafAtRoot(shift)
    offset_mask = (1 << shift) - 1
    real = pte.real_address(word)
    if real & offset_mask:
        if not profile.mask_misaligned:
            return MisalignedPage(real, shift)
        real &= ~offset_mask
    granted = pte.permissions(word)
    if profile.write_implies_read and granted.write and not granted.read:
        granted = Permissions(granted.privileged, True, True, granted.execute)
    return FoundLeaf(
        pte=word,
        shift=shift,
        real_address=real | address & offset_mask,
        permissions=granted,
        referenced=bool(word & pte.PTE_R),
        changed=bool(word & pte.PTE_C),
    )
