"""Tables for the terminal. They fit 80 columns and use more where there is more."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from nestscope.decoders.words.field import Field


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
