"""The listing as a user of drgn would write it: a plain script, no NumPy.

It is told where the trees and the rmap array are, so it need not search for them.
The image has no VMCOREINFO, so drgn cannot translate: the script gives it physical
addresses, and finds those of vmalloc pages itself.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import drgn

LINEAR = 0xC000_0000_0000_0000
EA_MASK = (1 << 52) - 1
VALID = 1 << 63
LEAF = 1 << 62
TABLE = 0x0FFF_FFFF_FFFF_FF00
RPN = 0x01FF_FFFF_FFFF_F000

ReadWords = Callable[[Any, int, int, str], "tuple[int, ...] | list[int]"]


class Places(NamedTuple):
    """Where the listing begins: kernel addresses, but `pgd` is a physical one."""

    pgd: int
    pgtable: int
    shadow: list[int]
    rmap_array: int
    npages: int
    page_shift: int


class Listing(NamedTuple):
    """Leaves as (address, shift, pte), and entries as (gfn, l1_lpid, n_gpa)."""

    host: list[tuple[int, int, int]]
    shadow: list[list[tuple[int, int, int]]]
    entries: list[tuple[int, int, int]]


def by_table(prog: Any, address: int, count: int, order: str) -> tuple[int, ...]:
    """Read a table with one read, and unpack it with one call."""
    return struct.unpack(f"{order}{count}Q", prog.read(address, 8 * count))


def by_word(prog: Any, address: int, count: int, order: str) -> list[int]:
    """Read a table word by word, each through drgn."""
    read_u64 = prog.read_u64
    words = [read_u64(address + 8 * number) for number in range(count)]
    if order == ">":  # drgn reads in the order of the machine, which is little-endian
        words = [int.from_bytes(w.to_bytes(8, "little"), "big") if w else 0 for w in words]
    return words


def open_program(path: Path) -> Any:
    """Return a Program on a raw image of RAM."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(address: int, count: int, _offset: int, _physical: bool) -> bytes:
        return memory[address : address + count]

    flags = drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN
    prog = drgn.Program(drgn.Platform(drgn.Architecture.PPC64, flags))
    prog.add_memory_segment(0, len(memory), read)
    return prog


def listing(path: Path, places: Places, read_words: ReadWords) -> Listing:
    """List all leaves and all rmap entries in the raw image at `path`."""
    prog = open_program(path)
    kernel = {
        address: pte & RPN for address, _, pte in leaves(prog, places.pgd | LINEAR, read_words)
    }
    return Listing(
        leaves(prog, places.pgtable, read_words),
        [leaves(prog, root, read_words) for root in places.shadow],
        rmap_entries(prog, places, kernel, read_words),
    )


def leaves(prog: Any, root: int, read_words: ReadWords) -> list[tuple[int, int, int]]:
    """Return the leaves of the tree at kernel address `root`, ascending."""
    found: list[tuple[int, int, int]] = []

    def visit(table: int, bits: int, first: int, span: int) -> None:
        shift = span - bits
        for index, word in enumerate(read_words(prog, table, 1 << bits, ">")):
            if not word & VALID:
                continue
            address = first | index << shift
            if word & LEAF:
                found.append((address, shift, word))
            else:
                visit(word & TABLE, word & 31, address, shift)

    visit(root & ~LINEAR, 13, 0, 52)
    return found


def rmap_entries(
    prog: Any, places: Places, kernel: dict[int, int], read_words: ReadWords
) -> list[tuple[int, int, int]]:
    """Return the entries of all chains; the array is read by the pages that vmalloc gave it."""
    found: list[tuple[int, int, int]] = []
    page = 1 << places.page_shift
    for first in range(0, places.npages, page // 8):
        start = kernel[(places.rmap_array & EA_MASK) + 8 * first]
        count = min(page // 8, places.npages - first)
        for gfn, head in enumerate(read_words(prog, start, count, "<"), first):
            word = head
            while word:
                if word & 1:
                    found.append((gfn, word >> 52, word & 0xF_FFFF_FFFF_F000))
                    break
                # struct rmap_nested: next, then the entry.
                word, entry = read_words(prog, word & ~LINEAR, 2, "<")
                found.append((gfn, entry >> 52, entry & 0xF_FFFF_FFFF_F000))
    return found
