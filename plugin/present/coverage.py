"""Coverage of the kernel, for the terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nestscope.plugin.differential.coverage.report import (
    BlockReport,
    CoverageReport,
    FunctionReport,
)
from nestscope.plugin.present.tables import plain_table

_NO_REASON = "no reason is declared"
_COUNT_WIDTH = 7


def coverage_view(report: CoverageReport, *, listing: bool) -> RenderableType:
    """Return the table of functions, the blocks that did not run, and with `listing` all code."""
    parts: list[RenderableType] = [_functions_table(report)]
    if any(function.missing for function in report.functions):
        parts.append(_missing_table(report))
    if listing:
        parts += [_listing(function) for function in report.functions]
    parts += [Text(message, style="bold red") for message in report.wrong]
    return Group(*parts)


def _functions_table(report: CoverageReport) -> Table:
    table = plain_table()
    table.add_column("function (and what is inlined in it)")
    for name in ("blocks", "covered", "%", "can run", "% of these"):
        table.add_column(name, justify="right")
    for function in report.functions:
        table.add_row(
            "\n  ".join([function.name, *function.inlined]),
            str(len(function.blocks)),
            str(function.covered),
            f"{function.percent:.1f}",
            str(function.possible),
            f"{function.percent_of_possible:.1f}",
        )
    blocks = sum(len(function.blocks) for function in report.functions)
    covered = sum(function.covered for function in report.functions)
    possible = sum(function.possible for function in report.functions)
    table.add_section()
    table.add_row(
        *("all", str(blocks), str(covered), f"{100 * covered / blocks:.1f}"),
        *(str(possible), f"{100 * covered / possible:.1f}" if possible else "-"),
    )
    return table


def _missing_table(report: CoverageReport) -> Table:
    table = plain_table(title="not covered")
    table.add_column("block", no_wrap=True)
    table.add_column("why")
    for function in report.functions:
        for block in function.missing:
            style = None if block.reason else "red"
            why = _why(block)
            table.add_row(f"{function.name}+{block.at:#x}", why, style=style)
    return table


def _listing(function: FunctionReport) -> Text:
    """Return a function's disassembly: how often each block ran, `-` where it did not."""
    text = Text(f"\n{function.name}  ({function.percent:.1f} %)\n", style="bold")
    for block in function.blocks:
        style = "green" if block.count else "red"
        for line in _lines(block):
            text.append(f"{line}\n", style=style)
    return text


def _lines(block: BlockReport) -> Iterator[str]:
    start = block.block.start
    mark = str(block.count) if block.count else "-"
    for instruction in block.block.instructions:
        at = block.at + instruction.offset - start
        first = instruction.offset == start
        yield f"{mark if first else '':>{_COUNT_WIDTH}}  +{at:<6x} {instruction.text}"
    if not block.count:
        yield f"{'':>{_COUNT_WIDTH}}  ; {_why(block)}"


def _why(block: BlockReport) -> str:
    if block.reason is None:
        return _NO_REASON
    return f"never: {block.reason.text}" if block.reason.never else block.reason.text
