"""The figure of the rmap: the three forms of the seed's picture, within the given width."""

import pytest

from nestscope.decoders.state import FORM_LIST, FORM_SINGLE, Chains
from nestscope.plugin.present.figure import draw_rmap

CHAINS = Chains.build(
    [
        (0x80, FORM_SINGLE, [(3, 0x1000000)]),
        (0x90, FORM_LIST, [(1, 0x1000000), (2, 0x1000000)]),
    ]
)


def test_empty_single_and_list_look_like_the_figure_of_the_commit() -> None:
    assert draw_rmap(CHAINS, [0x7F, 0x80, 0x90]) == "\n".join(
        [
            "gfn    memslot rmap array",
            "       ┌───────────────┐",
            "0x7f   │ NULL          │  (no rmap entry)",
            "       ├───────────────┤",
            "0x80   │ single entry  │ ─▶ lpid 3  0x1000000",
            "       ├───────────────┤",
            "       │               │    ┌───────────────────┐    ┌───────────────────┐",
            "0x90   │ list head ptr │ ─▶ │ next pointer      │ ─▶ │ single entry      │",
            "       │               │    │ lpid 1  0x1000000 │    │ lpid 2  0x1000000 │",
            "       │               │    └───────────────────┘    └───────────────────┘",
            "       └───────────────┘",
        ]
    )


def test_by_default_every_gfn_with_an_entry_is_drawn() -> None:
    drawn = draw_rmap(CHAINS)
    assert "0x80" in drawn
    assert "0x90" in drawn
    assert "NULL" not in drawn


def test_an_empty_rmap_says_so() -> None:
    assert draw_rmap(Chains()) == "the rmap is empty"


@pytest.mark.parametrize("width", [60, 80, 132])
def test_a_long_chain_goes_on_in_the_next_row_and_loses_nothing(width: int) -> None:
    entries = [(lpid, lpid << 20) for lpid in range(1, 12)]
    drawn = draw_rmap(Chains.build([(5, FORM_LIST, entries)]), width=width)
    assert max(len(line) for line in drawn.splitlines()) <= width
    shown = [drawn.index(f"lpid {lpid}  {n_gpa:#x} ") for lpid, n_gpa in entries]
    assert shown == sorted(shown)
    assert drawn.count("next pointer") == 10
    assert drawn.count("single entry") == 1
