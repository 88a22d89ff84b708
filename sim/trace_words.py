"""The words of one line of a trace, and what is said where one is wrong."""

import re

from nestscope.decoders.errors import NestscopeError
from nestscope.sim.constants import U64
from nestscope.sim.operations import SHIFTS, permission_bits

_WORD = re.compile(r"\S+")
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}")


class TraceError(NestscopeError):
    """A trace that cannot be parsed; `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, why: str) -> None:
        super().__init__(f"trace line {line}, column {column}: {why}")
        self.line = line
        self.column = column
        self.why = why


class Words:
    """The words of one line, taken from the left."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.words = [(m.start() + 1, m.group()) for m in _WORD.finditer(text)]
        self.end = len(text.rstrip()) + 1

    def fail(self, column: int, why: str) -> TraceError:
        """Return the error of a word."""
        return TraceError(self.line, column, why)

    def take(self, what: str) -> tuple[int, str]:
        """Take the next word and its column."""
        if not self.words:
            raise self.fail(self.end, f"{what} is missing")
        return self.words.pop(0)

    def number(self, what: str) -> int:
        """Take a number of at most 64 bits."""
        return self.to_number(*self.take(what), what)

    def to_number(self, column: int, word: str, what: str) -> int:
        """Convert a word."""
        if not _NUMBER.fullmatch(word) or int(word, 0 if word.startswith("0x") else 10) > U64:
            raise self.fail(column, f"'{word}' is not a number for {what}")
        return int(word, 16) if word.startswith("0x") else int(word)

    def shift(self) -> int:
        """Take a page size: log2 of bytes."""
        column, word = self.take("the page size")
        if word not in SHIFTS:
            raise self.fail(column, f"'{word}' is not one of the page sizes {', '.join(SHIFTS)}")
        return SHIFTS[word]

    def permissions(self) -> int:
        """Take permission letters: bits of a PTE."""
        column, word = self.take("the permissions")
        try:
            return permission_bits(word)
        except ValueError as problem:
            raise self.fail(column, str(problem)) from None

    def fields(self, verb: str, names: tuple[str, ...]) -> list[int]:
        """Take `name=value` words, each name once, in any order."""
        values: dict[str, int] = {}
        while self.words:
            column, word = self.take("a field")
            name, _, value = word.partition("=")
            if name not in names or name in values:
                raise self.fail(column, f"'{word}' is not a new field of {verb}")
            values[name] = self.to_number(column, value, name)
        missing = [name for name in names if name not in values]
        if missing:
            raise self.fail(self.end, f"{verb} lacks {', '.join(missing)}")
        return [values[name] for name in names]

    def writable(self) -> bool:
        """Take `ro` or `rw`."""
        column, word = self.take("`ro` or `rw`")
        if word not in ("ro", "rw"):
            raise self.fail(column, f"'{word}' is neither `ro` nor `rw`")
        return word == "rw"

    def on(self) -> bool:
        """Take `on` or `off`."""
        column, word = self.take("`on` or `off`")
        if word not in ("on", "off"):
            raise self.fail(column, f"'{word}' is neither `on` nor `off`")
        return word == "on"

    def numbers(self, what: str, most: int) -> tuple[int, ...]:
        """Take the rest of the line, at most `most` numbers."""
        found = [self.number(what) for _ in range(min(len(self.words), most))]
        return tuple(found)

    def finish(self) -> None:
        """Refuse what is left."""
        if self.words:
            column, word = self.words[0]
            raise self.fail(column, f"'{word}' is too much")
