"""How full the rmap array of a memslot is, cell by cell: what the heat maps draw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.state import Memslot


@dataclass(frozen=True)
class Occupancy:
    """The rmap of a memslot, cut into cells of `pages` guest pages each (a power of two).

    `chains[i]` counts the gfns of cell i that have an entry, `entries[i]` their
    entries, `longest[i]` the entries of its longest chain. The last cell may reach
    over the end of the slot.
    """

    base_gfn: int
    npages: int
    pages: int
    chains: NDArray[np.int64]
    entries: NDArray[np.int64]
    longest: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chains)

    def first_gfn(self, cell: int) -> int:
        """Return the first gfn of a cell."""
        return self.base_gfn + cell * self.pages

    def share(self, cell: int) -> float:
        """Return which part of the pages of a cell has an entry, 0.0 to 1.0."""
        inside = min(self.pages, self.npages - cell * self.pages)
        return float(self.chains[cell]) / max(inside, 1)


def occupancy(memslot: Memslot, most_cells: int) -> Occupancy:
    """Cut a memslot into at most `most_cells` cells and count in each."""
    pages = 1
    while -(-memslot.npages // pages) > most_cells:
        pages *= 2
    cells = -(-memslot.npages // pages)
    index = memslot.rmap.index
    inside = (index["gfn"] >= memslot.base_gfn) & (index["gfn"] < memslot.base_gfn + memslot.npages)
    index = index[inside]
    cell = ((index["gfn"] - memslot.base_gfn) // pages).astype(np.int64)
    lengths = index["count"].astype(np.int64)
    entries = np.zeros(cells, np.int64)
    longest = np.zeros(cells, np.int64)
    np.add.at(entries, cell, lengths)
    np.maximum.at(longest, cell, lengths)
    chains = np.bincount(cell, minlength=cells).astype(np.int64)
    return Occupancy(memslot.base_gfn, memslot.npages, pages, chains, entries, longest)
