"""The heat map: each gfn with an entry falls into the cell of its address."""

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nestscope.decoders.state import Chains, Memslot
from nestscope.plugin.present.heatmap import Heatmap, length_class
from nestscope.plugin.present.occupancy import occupancy


def memslot(base: int, npages: int, lengths: dict[int, int]) -> Memslot:
    chains = Chains.build(
        (gfn, 1 if length == 1 else 2, [(1, at << 16) for at in range(length)])
        for gfn, length in lengths.items()
    )
    return Memslot(0, base, npages, 0, 0, 0, chains)


@given(
    base=st.integers(0, 1 << 30),
    npages=st.integers(1, 5000),
    most=st.integers(1, 64),
    data=st.data(),
)
def test_no_chain_is_lost_and_each_is_in_the_cell_of_its_gfn(
    base: int, npages: int, most: int, data: st.DataObject
) -> None:
    pages = st.integers(0, npages - 1)
    lengths = data.draw(st.dictionaries(pages, st.integers(1, 9), max_size=20))
    slot = memslot(base, npages, {base + page: length for page, length in lengths.items()})
    cells = occupancy(slot, most)
    assert 1 <= len(cells) <= most
    for cell in range(len(cells)):
        here = [length for page, length in lengths.items() if page // cells.pages == cell]
        assert cells.chains[cell] == len(here)
        assert cells.entries[cell] == sum(here)
        assert cells.longest[cell] == max(here, default=0)
        assert 0 <= cells.share(cell) <= 1
    assert (len(cells) - 1) * cells.pages < npages <= len(cells) * cells.pages


def test_a_full_last_cell_of_an_odd_slot_is_full() -> None:
    cells = occupancy(memslot(0, 9, {8: 1}), 8)
    assert cells.pages == 2
    assert cells.share(4) == 1.0
    assert np.count_nonzero(cells.chains) == 1


def test_lengths_fall_into_the_classes_of_the_legend() -> None:
    assert [length_class(length) for length in (1, 2, 7, 8, 63, 64, 9999)] == [0, 1, 1, 2, 2, 3, 3]


def test_the_map_fits_80_columns_and_marks_the_cell_at_its_address() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(Heatmap(memslot(0, 1024, {0x80: 12, 0x3FF: 1}), 16))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert lines[0] == "rmap of memslot 0: 2 chains, 13 entries; a cell is 1 page (64 KiB)"
    rows = {line.split()[0]: line.split()[1] for line in lines[1:17]}
    assert rows["0x800000"] == "█" + "·" * 63
    assert rows["0x3c00000"] == "·" * 63 + "█"
    assert sum(row.count("█") for row in rows.values()) == 2
