"""Builds radix trees in a test memory, entry by entry, for any geometry."""

from hypothesis import strategies as st

from nestscope.decoders.radix import RadixRoot
from nestscope.decoders.words import pde, pte

from .memories import SparseMemory

P9_64K = (13, 9, 9, 5)
P9_4K = (13, 9, 9, 9)


class Tree:
    """A tree whose root has `bits[0]` index bits; tables appear from `free` on as leaves come."""

    def __init__(
        self,
        memory: SparseMemory,
        bits: tuple[int, ...] = P9_64K,
        address_bits=52,
        free: int = 0x100_0000,
    ):
        self.memory = memory
        self.bits = bits
        self.address_bits = address_bits
        self.tables: dict[int, tuple[int, int]] = {}
        self._free = free
        self.root = RadixRoot(self.allocate(bits[0]), bits[0], address_bits)

    def allocate(self, bits: int) -> int:
        size = max(8 << bits, 256)
        table = -(-self._free // size) * size
        self._free = table + size
        self.memory.table(table, 8 << bits)
        return table

    def shift_at(self, level: int, bits: tuple[int, ...] | None = None) -> int:
        return self.address_bits - sum((bits or self.bits)[: level + 1])

    def entry_address(self, address: int, level: int, bits: tuple[int, ...] | None = None) -> int:
        """Where the entry for `address` at `level` lies; makes the tables on the way."""
        sizes = bits or self.bits
        table = self.root.table
        for at in range(level + 1):
            index = (address >> self.shift_at(at, sizes)) & ((1 << sizes[at]) - 1)
            place = table + 8 * index
            if at < level:
                if place not in self.memory.words:
                    following = self.allocate(sizes[at + 1])
                    self.memory.put(place, pde.make_pde(following, sizes[at + 1]))
                table = pde.next_table(int.from_bytes(self.memory.words[place], "big"))
        return place

    def put(self, address: int, level: int, word: int, bits: tuple[int, ...] | None = None) -> int:
        place = self.entry_address(address, level, bits)
        self.memory.put(place, word)
        return place

    def map(self, address: int, real: int, level: int | None = None, flags: int = 7) -> int:
        """Map `address` with a leaf at `level` (the last unless told); returns the PTE."""
        at = len(self.bits) - 1 if level is None else level
        word = pte.PTE_LEAF | real | flags
        self.put(address, at, word)
        return word


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, tuple[int, ...]]:
    """(address bits, table bits from the root down), with pages of at least 4 KiB."""
    bits = tuple(draw(st.lists(st.integers(1, 10), min_size=1, max_size=5)))
    page_shift = draw(st.integers(12, 21))
    return min(max(sum(bits) + page_shift, 31), 62), bits
