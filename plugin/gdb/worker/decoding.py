"""`nested decode` and the functions that decode words: the target is not needed."""

from importlib import import_module

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.words.field import Field
from nestscope.plugin.gdb.inside.spec import WORDS
from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.present.tables import field_document, field_table


def decode(request: Request) -> Answer:
    """Decode a word; with `field`, only the value of that field."""
    word, value = request.arguments["word"], request.needed("value")
    fields: list[Field] = describe(word, value)
    name = request.arguments.get("field")
    if name:
        return Answer(value=_field(fields, word, str(name)))
    meanings = [field.meaning for field in fields if field.value and field.meaning]
    text = ", ".join(meanings) or "0"
    document = field_document(word, value, fields)
    return Answer(document, (field_table(word.upper(), value, fields),), text)


def describe(word: str, value: int) -> list[Field]:
    """Return the fields of a word, given in host order.

    Raises:
        NestscopeError: if there is no such word, or `value` is none.
    """
    if word not in WORDS:
        raise NestscopeError(f"there is no word {word}: it is one of {', '.join(WORDS)}")
    found: list[Field] = import_module(f"nestscope.decoders.words.{word}").describe(value)
    return found


def _field(fields: list[Field], word: str, name: str) -> int:
    for field in fields:
        if field.name == name.lower():
            return field.value
    known = ", ".join(field.name for field in fields)
    raise NestscopeError(f"{word} has no field {name}: it has {known}")
