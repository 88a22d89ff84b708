"""A heat map of the rmap array for the terminal: where entries are, how long chains get.

The shade of a cell says which part of its pages has an entry, its colour how long
its longest chain is. Without colour the shade remains.
"""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from nestscope.decoders.state import Memslot
from nestscope.plugin.present.occupancy import Occupancy, occupancy
from nestscope.plugin.present.units import count, size

_ROWS = 16
_SHADES = "░▒▓█"
_EMPTY = "·"
LENGTHS = (1, 2, 8, 64)
"""Where the classes of chain lengths begin: 1, 2 to 7, 8 to 63, 64 and more."""
_COLOURS = ("green", "yellow", "dark_orange", "red")


def length_class(longest: int) -> int:
    """Return the class of a chain of `longest` entries (1 or more): 0 to 3."""
    return sum(longest >= start for start in LENGTHS) - 1


class Heatmap:
    """The heat map of one memslot. `page_shift` is log2 of the host's page size, if known."""

    def __init__(self, memslot: Memslot, page_shift: int | None) -> None:
        self.memslot = memslot
        self._page_shift = page_shift

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        label = len(self._place(self.memslot.base_gfn + self.memslot.npages)) + 1
        width = max(options.max_width - label, 16)
        width = 1 << (width.bit_length() - 1)
        cells = occupancy(self.memslot, width * _ROWS)
        yield Text(f"rmap of memslot {self.memslot.id}: {self._scale(cells)}")
        for start in range(0, len(cells), width):
            yield Segment(f"{self._place(cells.first_gfn(start)):>{label - 1}} ")
            for cell in range(start, min(start + width, len(cells))):
                yield _drawn(cells, cell)
            yield Segment.line()
        yield _legend()

    def _place(self, gfn: int) -> str:
        return hex(gfn if self._page_shift is None else gfn << self._page_shift)

    def _scale(self, cells: Occupancy) -> str:
        pages = "1 page" if cells.pages == 1 else f"{count(cells.pages)} pages"
        if self._page_shift is not None:
            pages += f" ({size(cells.pages << self._page_shift)})"
        total = int(cells.entries.sum())
        return f"{count(int(cells.chains.sum()))} chains, {count(total)} entries; a cell is {pages}"


def _drawn(cells: Occupancy, cell: int) -> Segment:
    if not cells.chains[cell]:
        return Segment(_EMPTY, Style(dim=True))
    shade = _SHADES[min(int(cells.share(cell) * len(_SHADES)), len(_SHADES) - 1)]
    return Segment(shade, Style(color=_COLOURS[length_class(int(cells.longest[cell]))]))


def _legend() -> Text:
    legend = Text("longest chain: ")
    ends = [*(following - 1 for following in LENGTHS[1:]), None]
    for start, end, colour in zip(LENGTHS, ends, _COLOURS, strict=True):
        name = str(start) if end == start else f"{start}+" if end is None else f"{start}-{end}"
        legend.append("█ ", Style(color=colour)).append(f"{name}  ")
    return legend.append(f" pages with an entry: few {_SHADES} all")
