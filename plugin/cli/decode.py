"""`nestscope decode`: one word, field by field."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from nestscope.decoders.errors import NestscopeError


class Word(StrEnum):
    """The words that `decode` knows."""

    PTE = "pte"
    PDE = "pde"
    PATE = "pate"
    PRTE = "prte"
    PTCR = "ptcr"
    RMAP = "rmap"


def decode(
    word: Annotated[Word, typer.Argument(help="What the value is.")],
    value: Annotated[str, typer.Argument(help="The word in host order: 0x..., or decimal.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decode one word of the radix MMU or of the nested rmap, field by field.

    Example: nestscope decode pte 0xc000000002d50387
    """
    from importlib import import_module

    try:
        number = int(value, 0)
    except ValueError:
        raise NestscopeError(f"{value!r} is not a number: write 0x... or decimal digits") from None
    fields = import_module(f"nestscope.decoders.words.{word.value}").describe(number)
    if json_output:
        from nestscope.plugin.present.tables import field_document

        print(json.dumps(field_document(word.value, number, fields)))
        return
    from nestscope.plugin.present.tables import field_table
    from nestscope.plugin.present.terminal import terminal

    terminal().print(field_table(word.value.upper(), number, fields))
