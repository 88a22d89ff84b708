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

and, with the header `nestscope-trace 2`, also what came later:

    rpti lpid=3 target=1 type=3 pages=2 start=0x1000000 end=0x1020000
    slot 1 0x4000000 0x1000000 0x200000000000 0
    unslot 1
    moveslot 1 0x6000000
    slotflags 1 1
    dirtylog 1
    cleardirty 1 0 64
    migrate 0x900000 0x10000
    collapse 0xa00000 2M
    split 0xa00000 2M
    protect 0x900000 0x10000 ro
    age 0x900000 0x10000
    testage 0x900000
    destroy
    hpt

With the header `nestscope-trace 3`, also:

    word 0x600000 0xc000000000900187
    hcall 0xf804 0x30000 0x31000
    remap 0x900000 0x10000
    create
    radix
    htab 24
    together load 1 0x1000000 | store 2 0x2000000 0x5 | discard 0x900000 0x10000

With the header `nestscope-trace 4`, also:

    thp 0xc00000 0x200000 on
    fork

With the header `nestscope-trace 5`, also operations that are held at places of the
kernel's code (`sim.places`) and take turns (`sim.order`):

    order store 1 0x1000000 0x5 at kvmppc_create_pte:_raw_spin_lock | dirtylog 1

and

    hugetlb 0xc00000 0x200000 2M
    clearrefs 4

A trace is written with the lowest header that knows all its verbs.

Numbers are decimal or 0x hexadecimal, at most 64 bits. `-` stands for no
permissions. Everything from `#` to the end of a line is comment.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from nestscope.sim.operations import Operation, Order, Together
from nestscope.sim.places import STAY, Place, Turn
from nestscope.sim.trace_words import TraceError, Words
from nestscope.sim.verbs import VERB_OF, VERBS

__all__ = ["TraceError", "format_operation", "format_trace", "parse", "parse_line"]

HEADER = "nestscope-trace 1"
HEADER_2 = "nestscope-trace 2"
HEADER_3 = "nestscope-trace 3"
HEADER_4 = "nestscope-trace 4"
HEADER_5 = "nestscope-trace 5"
HEADERS = (HEADER, HEADER_2, HEADER_3, HEADER_4, HEADER_5)
"""First lines of a trace, by version from 1."""

TOGETHER = "together"
TOGETHER_VERSION = 3
ORDER, AT = "order", "at"
ORDER_VERSION = 5


def parse_line(line: int, text: str, version: int = len(HEADERS)) -> Operation | None:
    """Parse line number `line`; None for an empty line or a comment.

    `version` is that of the trace's header, from 1.

    Raises:
        TraceError: with the place of the first word that is wrong.
    """
    words = Words(line, text.split("#", 1)[0])
    if not words.words:
        return None
    column, verb = words.take("the operation")
    if verb in (TOGETHER, ORDER):
        return _parse_several(line, text, version, verb)
    needed = version_of(verb)
    if needed == 0:
        known = [verb.word for verb in VERBS.values() if verb.version <= version]
        raise words.fail(column, f"'{verb}' is not one of {', '.join(known)}")
    if needed > version:
        raise words.fail(column, f"'{verb}' needs the header '{HEADERS[needed - 1]}'")
    operation = VERBS[verb].parse(words)
    words.finish()
    return operation


def _parse_several(line: int, text: str, version: int, verb: str) -> Together | Order:
    """Parse the operations between the bars; columns count in the whole line."""
    start = text.index(verb) + len(verb)
    operations, turns = [], []
    for part in text.split("#", 1)[0][start:].split("|"):
        told, _, places = part.partition(f" {AT} ") if verb == ORDER else (part, "", "")
        operation = parse_line(line, " " * start + told, version)
        if operation is None or isinstance(operation, Together | Order):
            raise TraceError(line, start + 1, "between bars there is one operation")
        operations.append(operation)
        turns.append(_parse_turns(line, start + 1, places))
        start += len(part) + 1
    if version < version_of(verb):
        raise TraceError(line, 1, f"'{verb}' needs the header '{HEADERS[version_of(verb) - 1]}'")
    if verb == ORDER:
        return Order(tuple(operations), tuple(turns))
    return Together(tuple(operations))


def _parse_turns(line: int, column: int, places: str) -> tuple[Turn, ...]:
    try:
        return tuple(None if word == STAY else Place.parse(word) for word in places.split())
    except ValueError as problem:
        raise TraceError(line, column, str(problem)) from None


def version_of(verb: str) -> int:
    """Return the version of the language that brought a verb, 0 for none."""
    if verb in (TOGETHER, ORDER):
        return TOGETHER_VERSION if verb == TOGETHER else ORDER_VERSION
    return VERBS[verb].version if verb in VERBS else 0


def parse(text: str) -> Iterator[Operation]:
    """Yield the operations of a trace.

    Raises:
        TraceError: for a wrong header or at the first wrong line.
    """
    lines = text.splitlines()
    header = lines[0].strip() if lines else ""
    if header not in HEADERS:
        raise TraceError(1, 1, f"a trace begins with '{HEADER}' up to '{HEADERS[-1]}'")
    version = HEADERS.index(header) + 1
    for number, line in enumerate(lines[1:], start=2):
        operation = parse_line(number, line, version)
        if operation is not None:
            yield operation


def format_operation(operation: Operation) -> str:
    """Return the line of an operation."""
    if isinstance(operation, Together | Order):
        return _format_several(operation)
    return VERB_OF[type(operation)].format(operation)


def _format_several(several: Together | Order) -> str:
    if isinstance(several, Together):
        return f"{TOGETHER} " + " | ".join(map(format_operation, several.operations))
    return f"{ORDER} " + " | ".join(map(_format_held, several.operations, several.turns))


def _format_held(operation: Operation, turns: Sequence[Turn]) -> str:
    places = [STAY if place is None else str(place) for place in turns]
    return " ".join([format_operation(operation), *([AT, *places] if places else [])])


def format_trace(operations: Iterable[Operation]) -> str:
    """Return a whole trace with its header."""
    lines = [format_operation(operation) for operation in operations]
    inner = (line.removeprefix(TOGETHER).removeprefix(f"{ORDER} ").split("|") for line in lines)
    verbs = (part.split()[0] for part in chain(lines, *inner))
    version = max(map(version_of, verbs), default=1)
    return "\n".join([HEADERS[version - 1], *lines, ""])
