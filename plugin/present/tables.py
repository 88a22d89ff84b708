"""Tables for the terminal. They fit 80 columns and use more where there is more."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from nestscope.decoders.words.field import Field


def plain_table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the style of all our tables.

    `columns` are numbers and addresses: to the right, and folded where the terminal is
    narrow, never cut. Other columns are added by the caller.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def field_table(title: str, value: int, fields: Sequence[Field]) -> Table:
    """A decoded word: one row a field, in the order of its bits."""
    table = Table(title=f"{title} {value:#018x}", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("field")
    table.add_column("bits", justify="right")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for field in fields:
        style = None if field.value else "dim"
        table.add_row(
            field.name.upper(), field.isa_bits, hex(field.value), field.meaning, style=style
        )
    return table


def field_document(word: str, value: int, fields: Sequence[Field]) -> dict[str, Any]:
    """A decoded word as `decode --json` prints it; `word` is its name, `value` in host order."""
    return {
        "schema": "nestscope.decode/1",
        "word": word,
        "value": hex(value),
        "fields": [
            {
                "name": field.name,
                "bits": field.isa_bits,
                "value": hex(field.value),
                "meaning": field.meaning,
            }
            for field in fields
        ],
    }
