"""Why a radix walk found no page: one type for each reason.

`errno` is what Linux's `kvmppc_mmu_walk_radix_tree` returns for it. For a
nested guest's fault Linux then reports (book3s_hv_nested.c,
`kvmhv_translate_addr_nested`): EINVAL as DSISR_UNSUPP_MMU, ENOENT as
DSISR_NOHPTE, EFAULT as DSISR_PRTABLE_FAULT with the table's address.
Levels count from the root, which is 0 (Linux counts from 3 down).
"""

import errno
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class WalkFault:
    """Base of all reasons. `str()` is one sentence."""

    errno: ClassVar[int] = errno.EINVAL


@dataclass(frozen=True, slots=True)
class UnsupportedTreeSize(WalkFault):
    """RTS asks for a tree that is not supported (Linux and POWER9: 52 bits only)."""

    address_bits: int

    def __str__(self) -> str:
        return f"a tree of {self.address_bits} address bits is not supported (RTS)"


@dataclass(frozen=True, slots=True)
class BadLevelSize(WalkFault):
    """RPDS or NLS gives a table a size that is not allowed at its level."""

    level: int
    bits: int

    def __str__(self) -> str:
        return f"a table of {self.bits} index bits is not allowed at level {self.level}"


@dataclass(frozen=True, slots=True)
class MisalignedTable(WalkFault):
    """RPDB or NLB is not aligned to the size of the table."""

    level: int
    table: int
    bits: int

    def __str__(self) -> str:
        return (
            f"the table of level {self.level} at {self.table:#x} is not aligned "
            f"to its {8 << self.bits} bytes"
        )


@dataclass(frozen=True, slots=True)
class UnreadableTable(WalkFault):
    """The table entry at `address` is outside of memory."""

    errno: ClassVar[int] = errno.EFAULT
    level: int
    address: int
    why: str

    def __str__(self) -> str:
        return f"the entry of level {self.level} at {self.address:#x} cannot be read: {self.why}"


@dataclass(frozen=True, slots=True)
class NotPresent(WalkFault):
    """V is 0: nothing is mapped here."""

    errno: ClassVar[int] = errno.ENOENT
    level: int
    entry_address: int
    word: int

    def __str__(self) -> str:
        return (
            f"the entry of level {self.level} at {self.entry_address:#x} "
            f"is not valid ({self.word:#x})"
        )


@dataclass(frozen=True, slots=True)
class LeafAtRoot(WalkFault):
    """The root directory holds a leaf: 512 GiB pages on POWER9, which Linux refuses."""

    shift: int

    def __str__(self) -> str:
        return f"a leaf of 2^{self.shift} bytes in the root directory is not supported"


@dataclass(frozen=True, slots=True)
class MisalignedPage(WalkFault):
    """RPN of a huge page is not aligned to the page's size."""

    real_address: int
    shift: int

    def __str__(self) -> str:
        return f"the page at {self.real_address:#x} is not aligned to its 2^{self.shift} bytes"


@dataclass(frozen=True, slots=True)
class NoLeaf(WalkFault):
    """The last level leads to yet another table."""

    levels: int

    def __str__(self) -> str:
        return f"no leaf after {self.levels} levels"
