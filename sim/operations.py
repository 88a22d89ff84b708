"""Operations: what the guest hypervisor decides to do, one line of a trace each.

`sim.guest.Guest.lower` turns an operation into events. Addresses in bytes. What
VMM and host do (`sim.events.VmmEvent`) is an operation as it is.
"""

from dataclasses import dataclass

from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
)
from nestscope.sim.events import VmmEvent
from nestscope.sim.places import Turn

SHIFTS = {"4K": 12, "64K": 16, "2M": 21, "1G": 30}
"""Page sizes of the radix tree: name and log2 of bytes."""

PERMISSION_BITS = {
    "r": PTE_EAA_READ,
    "w": PTE_EAA_WRITE,
    "x": PTE_EAA_EXECUTE,
    "R": PTE_R,
    "C": PTE_C,
}
"""Letters of a leaf's permissions, in the order in which they are written."""

RWXRC = "rwxRC"


def permission_bits(letters: str) -> int:
    """Return the PTE bits of permission letters; `-` means none.

    Raises:
        ValueError: for a letter that is unknown or comes twice.
    """
    if letters == "-":
        return 0
    bits = 0
    for letter in letters:
        bit = PERMISSION_BITS.get(letter, 0)
        if not bit or bits & bit:
            raise ValueError(f"'{letters}' is not a set of the letters {RWXRC}")
        bits |= bit
    return bits


def permission_letters(bits: int) -> str:
    """Return the letters of PTE bits, `-` for none."""
    return "".join(letter for letter, bit in PERMISSION_BITS.items() if bits & bit) or "-"


@dataclass(frozen=True, slots=True)
class Map:
    """Put a leaf of `1 << shift` bytes into the guest's tree for nested guest `l1_lpid`.

    `bits` are the permission, R and C bits of the PTE. Nothing is invalidated.
    """

    l1_lpid: int
    n_gpa: int
    gpa: int
    shift: int
    bits: int


@dataclass(frozen=True, slots=True)
class Unmap:
    """Clear the leaf that covers `n_gpa` in the guest's tree. Nothing is invalidated."""

    l1_lpid: int
    n_gpa: int


@dataclass(frozen=True, slots=True)
class Load:
    """Nested guest `l1_lpid` loads 8 bytes at `n_gpa`."""

    l1_lpid: int
    n_gpa: int


@dataclass(frozen=True, slots=True)
class Store:
    """Nested guest `l1_lpid` stores the 8 bytes `value` at `n_gpa`."""

    l1_lpid: int
    n_gpa: int
    value: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Nested guest `l1_lpid` jumps to `n_gpa`, where a `blr` must be, and returns."""

    l1_lpid: int
    n_gpa: int


@dataclass(frozen=True, slots=True)
class WriteData:
    """The VMM writes 8 bytes, little-endian, at `gpa` through its own mapping."""

    gpa: int
    value: int


@dataclass(frozen=True, slots=True)
class WriteCode:
    """The VMM writes a `blr` at `gpa` through its own mapping, for `Fetch`."""

    gpa: int


@dataclass(frozen=True, slots=True)
class WriteWord:
    """The guest stores the doubleword `value`, big-endian, at `gpa` (8-byte aligned).

    Anywhere in its memory but in code: a table, or what a table entry then names.
    """

    gpa: int
    value: int


@dataclass(frozen=True, slots=True)
class RawHcall:
    """The guest makes hypercall `number` with up to seven arguments, whatever they are.

    H_ENTER_NESTED takes `hv_guest_state` and `pt_regs` as they lie in memory.
    """

    number: int
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetPartitionTable:
    """H_SET_PARTITION_TABLE with this PTCR."""

    ptcr: int


@dataclass(frozen=True, slots=True)
class Tlbie:
    """H_TLB_INVALIDATE: a partition-scoped tlbie.

    Fields as the ISA has them: RIC, PRS, R, IS, the LPID in RS, AP, and EPN (the
    nested real address shifted right by 12).
    """

    ric: int
    prs: int
    r: int
    is_: int
    lpid: int
    ap: int
    epn: int


@dataclass(frozen=True, slots=True)
class RptInvalidate:
    """H_RPT_INVALIDATE with its six arguments, as the hypercall has them.

    `target` and `kind` are sets of H_RPTI_TARGET_* and H_RPTI_TYPE_*, `pages` of
    H_RPTI_PAGE_*; `start` and `end` are nested real addresses.
    """

    lpid: int
    target: int
    kind: int
    pages: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DiscardMemory:
    """The VMM gives the host pages of a guest range back."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Drop:
    """The guest ends nested guest `l1_lpid`: its partition table entry, then its caches."""

    l1_lpid: int


@dataclass(frozen=True, slots=True)
class CreateGuest:
    """The VMM makes the VM with its first memslot again, after it was destroyed."""


Simple = (
    Map
    | Unmap
    | Load
    | Store
    | Fetch
    | WriteData
    | WriteCode
    | WriteWord
    | RawHcall
    | SetPartitionTable
    | Tlbie
    | RptInvalidate
    | DiscardMemory
    | Drop
    | CreateGuest
    | VmmEvent
)
"""What one line of a trace asks for, one thing after the other."""


@dataclass(frozen=True, slots=True)
class Together:
    """Operations at the same time: each of the guest's on a vCPU of its own, one of the VMM's."""

    operations: tuple[Simple, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Operations that take turns, each held at places of the kernel's code (`sim.order`).

    `turns`: for each operation where it goes in its first turns; after them to its end.
    """

    operations: tuple[Simple, ...]
    turns: tuple[tuple[Turn, ...], ...]


Operation = Simple | Together | Order
