"""What can be wrong with a chain of the nested rmap, and how it is said.

The checks are shared by the reader of one chain and the bulk path, so both say
the same. Source: `struct rmap_nested` and `for_each_nest_rmap_safe`
(kvm_book3s_64.h).
"""

from enum import IntEnum

from nestscope.decoders.state import Problem
from nestscope.decoders.words.rmap import RMAP_RESERVED, RMAP_SINGLE

MAX_CHAIN = 1 << 20
"""Entries of one chain that are read at most. The kernel scans a chain at each insertion,
so real ones are far shorter."""

MAX_TOLD = 1000
"""Troubles of one chain, or of one rmap, that are told apart."""

LINEAR_MAP = 0xC000_0000_0000_0000
LINEAR_MAP_MASK = 0xFFF8_0000_0000_0000
"""Bits that tell the linear map of a radix kernel from its other regions: it has 2**51 bytes.
Nodes come from kzalloc(), which hands out nothing else."""

NODE_ALIGN = 8


class Trouble(IntEnum):
    """What can be wrong with a chain. All but the first end the list.

    A node whose entry is 0 is not among them: that is how nested guest 0 at
    nested real address 0 is packed, and it reads like any other. That the
    kernel's own walk stops there is for the audit to say.
    """

    RESERVED = 1
    UNALIGNED = 3
    WILD = 4
    UNREADABLE = 5
    NULL_NEXT = 6
    CYCLE = 7
    TOO_LONG = 8
    TOO_MANY = 9


MESSAGES = {
    Trouble.RESERVED: "reserved bits are set in the entry {word:#x}",
    Trouble.UNALIGNED: "the list leads to {word:#x}, which is not aligned to 8 bytes",
    Trouble.WILD: "the list leads to {word:#x}, outside of the kernel's linear map",
    Trouble.UNREADABLE: "the list node at {word:#x} cannot be read",
    Trouble.NULL_NEXT: "next is NULL: an insertion was under way, or the tail is lost",
    Trouble.CYCLE: "the list leads back to its node at {word:#x}",
    Trouble.TOO_LONG: "the list has more than {word} entries; the rest is not read",
    Trouble.TOO_MANY: "the rmap has too many list nodes; the list is not read from {word:#x} on",
}


def problem(path: str, trouble: Trouble, word: int, address: int | None) -> Problem:
    """Return the problem that a trouble with `word`, found at `address`, makes."""
    kind = "chain-" + trouble.name.lower().replace("_", "-")
    return Problem(path, MESSAGES[trouble].format(word=word), address, kind, word)


def pointer_trouble(word: int) -> Trouble | None:
    """Return what is wrong with a list pointer before it is followed."""
    if word % NODE_ALIGN:
        return Trouble.UNALIGNED
    if word & LINEAR_MAP_MASK != LINEAR_MAP:
        return Trouble.WILD
    return None


def entry_trouble(entry: int) -> Trouble | None:
    """Return what is wrong with the entry of a list node. Its bit 0 is never set either."""
    return Trouble.RESERVED if entry & (RMAP_RESERVED | RMAP_SINGLE) else None
