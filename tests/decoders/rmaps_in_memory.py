"""Builds nested rmaps in a test memory, well-formed and not, in either byte order."""

from collections.abc import Sequence

from hypothesis import strategies as st

from nestscope.decoders.chain_troubles import LINEAR_MAP
from nestscope.decoders.words.rmap import make_entry

from .memories import SparseMemory

ARRAY = 0xC008_0000_0001_0000
"""Where the array lies: vmalloc space, as in a real kernel."""

NODES = LINEAR_MAP + 0x200_0000

Pairs = Sequence[tuple[int, int]]


class Rmap:
    """An rmap of `npages` words; chains are laid out as `kvmhv_insert_nest_rmap` leaves them."""

    def __init__(self, memory: SparseMemory, npages: int, order: str = "little") -> None:
        self.memory = memory
        self.npages = npages
        self.order = order
        self.nodes: list[int] = []
        memory.table(ARRAY, npages * 8)

    def word(self, page: int, word: int) -> None:
        self.memory.put(ARRAY + 8 * page, word, self.order)

    def node(self, following: int, entry: int) -> int:
        """Allocate a `struct rmap_nested`; returns its address."""
        address = NODES + 16 * len(self.nodes)
        self.nodes.append(address)
        self.memory.put(address, following, self.order)
        self.memory.put(address + 8, entry, self.order)
        return address

    def chain(self, page: int, pairs: Pairs) -> None:
        """Lay out a chain, given from head to tail."""
        *front, last = pairs
        word = make_entry(*last, single=True)
        for pair in reversed(front):
            word = self.node(word, make_entry(*pair))
        self.word(page, word)


wild_words = st.sampled_from(
    (
        0,
        1,
        8,
        0x0010_0000_0001_0FF1,  # reserved bits of an entry
        0xC000_0000_0200_0004,  # unaligned
        0xC008_0000_0001_0000,  # vmalloc, not the linear map
        0xC000_0000_7FFF_0000,  # nothing there
        0xFFFF_FFFF_FFFF_FFF8,
        0x5A5A_5A5A_5A5A_5A58,
    )
)


@st.composite
def malformed(draw: st.DrawFn, memory: SparseMemory, order: str) -> Rmap:
    """An rmap whose words and nodes lead anywhere: to nodes, in circles, into nothing."""
    count = draw(st.integers(1, 12))
    places = st.integers(0, count - 1).map(lambda at: NODES + 16 * at)
    tails = st.tuples(st.integers(0, 4095), st.integers(0, 2**40 - 1)).map(
        lambda pair: make_entry(pair[0], pair[1] << 12, single=True)
    )
    anything = st.one_of(places, places, tails, wild_words)
    rmap = Rmap(memory, draw(st.integers(1, 60)), order)
    for _ in range(count):
        rmap.node(draw(anything), draw(st.one_of(tails.map(lambda word: word - 1), wild_words)))
    for page in range(rmap.npages):
        rmap.word(page, draw(anything))
    return rmap
