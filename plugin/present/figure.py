"""The rmap of a memslot drawn like the figure of the commit that introduced it.

Each shown gfn is a cell of the rmap array: empty, a single entry, or the head
of a list whose nodes follow to the right. The last box of a list is the single
entry that the kernel keeps in the last node's next pointer.
"""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from nestscope.decoders.state import Chain, Chains, Entry

_CELL = 15
_ARROW = " ─▶ "


def draw_rmap(chains: Chains, gfns: Iterable[int] | None = None, width: int = 80) -> str:
    """Return the figure as text of at most `width` columns.

    `gfns` selects the cells to draw, empty ones included; by default every gfn
    with an entry. Boxes that do not fit go on in the next row.
    """
    shown = sorted(gfns) if gfns is not None else [chain.gfn for chain in chains]
    if not shown:
        return "the rmap is empty"
    label = max(len("gfn"), *(len(hex(gfn)) for gfn in shown)) + 2
    lines = [f"{'gfn':<{label}} memslot rmap array", _rule(label, "┌", "┐")]
    for number, gfn in enumerate(shown):
        if number:
            lines.append(_rule(label, "├", "┤"))
        lines += _chain_rows(gfn, chains.of(gfn), label, width)
    lines.append(_rule(label, "└", "┘"))
    return "\n".join(line.rstrip() for line in lines)


def _rule(label: int, left: str, right: str) -> str:
    return f"{'':<{label}} {left}{'─' * _CELL}{right}"


def _cell(label: int, name: str, text: str) -> str:
    return f"{name:<{label}} │{text:<{_CELL}}│"


def _chain_rows(gfn: int, chain: Chain | None, label: int, width: int) -> list[str]:
    name = hex(gfn)
    if chain is None:
        return [_cell(label, name, " NULL") + "  (no rmap entry)"]
    if chain.form == "single":
        return [_cell(label, name, " single entry") + _ARROW + _entry(chain.entries[0])]
    boxes = [_box("next pointer", _entry(entry)) for entry in chain.entries[:-1]]
    boxes += [_box("single entry", _entry(entry)) for entry in chain.entries[-1:]]
    rows = _fitting(boxes, width - label - _CELL - 3)
    lines = []
    for number, row in enumerate(rows):
        drawn = _side_by_side(row, goes_on=number < len(rows) - 1)
        for at, right in enumerate(drawn):
            first = number == 0 and at == 1
            left = _cell(label, name, " list head ptr") if first else _cell(label, "", "")
            lines.append(left + right)
    return lines


def _entry(entry: Entry) -> str:
    return f"lpid {entry.l1_lpid}  {entry.n_gpa:#x}"


def _box(first: str, second: str) -> list[str]:
    inner = max(cell_len(first), cell_len(second)) + 2
    return [
        f"┌{'─' * inner}┐",
        f"│ {first:<{inner - 2}} │",
        f"│ {second:<{inner - 2}} │",
        f"└{'─' * inner}┘",
    ]


def _fitting(boxes: Sequence[list[str]], room: int) -> list[list[list[str]]]:
    """Break a list of boxes into rows of at most `room` columns."""
    rows: list[list[list[str]]] = [[]]
    used = 0
    for box in boxes:
        needed = len(_ARROW) + cell_len(box[0])
        if rows[-1] and used + needed > room:
            rows.append([])
            used = 0
        rows[-1].append(box)
        used += needed
    return rows


def _side_by_side(boxes: Sequence[list[str]], *, goes_on: bool) -> list[str]:
    lines = ["", "", "", ""]
    for box in boxes:
        for at, line in enumerate(box):
            lines[at] += (_ARROW if at == 1 else " " * len(_ARROW)) + line
    if goes_on:
        lines[1] += " ─"
    return lines
