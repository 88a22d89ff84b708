"""The trace language: operations as text, one a line.

    nestscope-trace 1
    # comment
    ptcr 0x40004
    map 3 0x1000000 0x900000 64K rwxRC
    unmap 3 0x1000000
    load 3 0x1000000
    store 3 0x1000000 0x1234
    fetch 3 0x1000000
    write 0x900000 0x1234
    code 0x900000
    tlbie ric=0 prs=0 r=1 is=0 lpid=3 ap=5 epn=0x1000
    discard 0x900000 0x10000
    drop 3

Numbers are decimal or 0x hexadecimal, at most 64 bits. `-` stands for no
permissions. Everything from `#` to the end of a line is comment.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from nestscope.decoders.errors import NestscopeError
from nestscope.sim.constants import U64
from nestscope.sim.operations import (
    SHIFTS,
    DiscardMemory,
    Drop,
    Fetch,
    Load,
    Map,
    Operation,
    SetPartitionTable,
    Store,
    Tlbie,
    Unmap,
    WriteCode,
    WriteData,
    permission_bits,
    permission_letters,
)

HEADER = "nestscope-trace 1"

_WORD = re.compile(r"\S+")
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}")
_SIZE_NAMES = {shift: name for name, shift in SHIFTS.items()}
_TLBIE_FIELDS = ("ric", "prs", "r", "is", "lpid", "ap", "epn")


class TraceError(NestscopeError):
    """A trace that cannot be parsed; `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, why: str) -> None:
        super().__init__(f"trace line {line}, column {column}: {why}")
        self.line = line
        self.column = column
        self.why = why


class _Words:
    """The words of one line, taken from the left."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.words = [(m.start() + 1, m.group()) for m in _WORD.finditer(text)]
        self.end = len(text.rstrip()) + 1

    def fail(self, column: int, why: str) -> TraceError:
        return TraceError(self.line, column, why)

    def take(self, what: str) -> tuple[int, str]:
        if not self.words:
            raise self.fail(self.end, f"{what} is missing")
        return self.words.pop(0)

    def number(self, what: str) -> int:
        return self.to_number(*self.take(what), what)

    def to_number(self, column: int, word: str, what: str) -> int:
        if not _NUMBER.fullmatch(word) or int(word, 0 if word.startswith("0x") else 10) > U64:
            raise self.fail(column, f"'{word}' is not a number for {what}")
        return int(word, 16) if word.startswith("0x") else int(word)

    def shift(self) -> int:
        column, word = self.take("the page size")
        if word not in SHIFTS:
            raise self.fail(column, f"'{word}' is not one of the page sizes {', '.join(SHIFTS)}")
        return SHIFTS[word]

    def permissions(self) -> int:
        column, word = self.take("the permissions")
        try:
            return permission_bits(word)
        except ValueError as problem:
            raise self.fail(column, str(problem)) from None

    def tlbie(self) -> Tlbie:
        values: dict[str, int] = {}
        while self.words:
            column, word = self.take("a field")
            name, _, value = word.partition("=")
            if name not in _TLBIE_FIELDS or name in values:
                raise self.fail(column, f"'{word}' is not a new field of tlbie")
            values[name] = self.to_number(column, value, name)
        missing = [name for name in _TLBIE_FIELDS if name not in values]
        if missing:
            raise self.fail(self.end, f"tlbie lacks {', '.join(missing)}")
        return Tlbie(*(values[name] for name in _TLBIE_FIELDS))

    def finish(self) -> None:
        if self.words:
            column, word = self.words[0]
            raise self.fail(column, f"'{word}' is too much")


_PARSERS: dict[str, Callable[[_Words], Operation]] = {
    "map": lambda w: Map(
        w.number("l1_lpid"), w.number("n_gpa"), w.number("gpa"), w.shift(), w.permissions()
    ),
    "unmap": lambda w: Unmap(w.number("l1_lpid"), w.number("n_gpa")),
    "load": lambda w: Load(w.number("l1_lpid"), w.number("n_gpa")),
    "store": lambda w: Store(w.number("l1_lpid"), w.number("n_gpa"), w.number("the value")),
    "fetch": lambda w: Fetch(w.number("l1_lpid"), w.number("n_gpa")),
    "write": lambda w: WriteData(w.number("gpa"), w.number("the value")),
    "code": lambda w: WriteCode(w.number("gpa")),
    "ptcr": lambda w: SetPartitionTable(w.number("the PTCR")),
    "tlbie": lambda w: w.tlbie(),
    "discard": lambda w: DiscardMemory(w.number("gpa"), w.number("the length")),
    "drop": lambda w: Drop(w.number("l1_lpid")),
}


def parse_line(line: int, text: str) -> Operation | None:
    """Parse line number `line`; None for an empty line or a comment.

    Raises:
        TraceError: with the place of the first word that is wrong.
    """
    words = _Words(line, text.split("#", 1)[0])
    if not words.words:
        return None
    column, verb = words.take("the operation")
    parser = _PARSERS.get(verb)
    if parser is None:
        raise words.fail(column, f"'{verb}' is not one of {', '.join(_PARSERS)}")
    operation = parser(words)
    words.finish()
    return operation


def parse(text: str) -> Iterator[Operation]:
    """Yield the operations of a trace.

    Raises:
        TraceError: for a wrong header or at the first wrong line.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise TraceError(1, 1, f"a trace begins with '{HEADER}'")
    for number, line in enumerate(lines[1:], start=2):
        operation = parse_line(number, line)
        if operation is not None:
            yield operation


def format_operation(operation: Operation) -> str:
    """Return the line of an operation."""
    match operation:
        case Map(lpid, n_gpa, gpa, shift, bits):
            size = _SIZE_NAMES[shift]
            return f"map {lpid} {n_gpa:#x} {gpa:#x} {size} {permission_letters(bits)}"
        case Unmap(lpid, n_gpa):
            return f"unmap {lpid} {n_gpa:#x}"
        case Load(lpid, n_gpa):
            return f"load {lpid} {n_gpa:#x}"
        case Store(lpid, n_gpa, value):
            return f"store {lpid} {n_gpa:#x} {value:#x}"
        case Fetch(lpid, n_gpa):
            return f"fetch {lpid} {n_gpa:#x}"
        case WriteData(gpa, value):
            return f"write {gpa:#x} {value:#x}"
        case WriteCode(gpa):
            return f"code {gpa:#x}"
        case SetPartitionTable(ptcr):
            return f"ptcr {ptcr:#x}"
        case Tlbie(ric, prs, r, is_, lpid, ap, epn):
            return f"tlbie ric={ric} prs={prs} r={r} is={is_} lpid={lpid} ap={ap} epn={epn:#x}"
        case DiscardMemory(gpa, length):
            return f"discard {gpa:#x} {length:#x}"
        case Drop(lpid):
            return f"drop {lpid}"


def format_trace(operations: Iterable[Operation]) -> str:
    """Return a whole trace with its header."""
    return "\n".join([HEADER, *map(format_operation, operations), ""])
