"""One chain of the nested rmap, from the word of its gfn to its last entry.

The layout is in `words.rmap`. Every chain is taken as hostile: a list ends at
the first node that cannot be followed, and what was read up to there is
returned. `rmap_array` reads whole arrays and says the same, chain for chain.
"""

from dataclasses import dataclass

from nestscope.decoders.chain_troubles import (
    MAX_CHAIN,
    MAX_TOLD,
    Trouble,
    entry_trouble,
    pointer_trouble,
    problem,
)
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Entry,
    Problem,
)
from nestscope.decoders.words.field import ByteOrder
from nestscope.decoders.words.rmap import (
    RMAP_NESTED_SIZE,
    RMAP_RESERVED,
    RMAP_SINGLE,
    l1_lpid,
    n_gpa,
)

FORM_EMPTY = 0


@dataclass(frozen=True, slots=True)
class ChainReading:
    """A chain as far as it can be read: entries from head to tail.

    `form` is FORM_EMPTY, FORM_SINGLE or FORM_LIST. `nodes` are the kernel
    virtual addresses of the `struct rmap_nested` that were read, in order.
    """

    form: int
    entries: tuple[Entry, ...] = ()
    nodes: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_chain(
    memory: Memory,
    word: int,
    byteorder: ByteOrder = "little",
    limit: int = MAX_CHAIN,
    *,
    path: str = "rmap",
    address: int | None = None,
) -> ChainReading:
    """Follow the chain of an rmap word, given in host order.

    `memory` takes kernel virtual addresses. `address` is where `word` lies, for
    the problems; `path` is theirs. At most `limit` nodes are read. Nothing is
    raised: what is wrong is in `problems` (MAX_TOLD entries at most are told of),
    and everything readable is returned.
    """
    if word == 0:
        return ChainReading(FORM_EMPTY)
    entries: list[Entry] = []
    nodes: list[int] = []
    problems: list[Problem] = []
    form = FORM_SINGLE if word & RMAP_SINGLE else FORM_LIST
    visited: set[int] = set()
    while True:
        if word & RMAP_SINGLE:
            entries.append(Entry(l1_lpid(word), n_gpa(word)))
            if word & RMAP_RESERVED:
                problems.append(problem(path, Trouble.RESERVED, word, address))
            break
        ends = _end_of_list(word, visited, limit)
        if ends is not None:
            value = limit if ends is Trouble.TOO_LONG else word
            problems.append(problem(path, ends, value, address))
            break
        try:
            node = memory.read(word, RMAP_NESTED_SIZE)
        except UnreadableMemoryError:
            problems.append(problem(path, Trouble.UNREADABLE, word, address))
            break
        visited.add(word)
        nodes.append(word)
        entry = int.from_bytes(node[8:], byteorder)
        entries.append(Entry(l1_lpid(entry), n_gpa(entry)))
        wrong = entry_trouble(entry)
        if wrong is not None and len(problems) < MAX_TOLD:
            problems.append(problem(path, wrong, entry, word + 8))
        address, word = word, int.from_bytes(node[:8], byteorder)
    return ChainReading(form, tuple(entries), tuple(nodes), tuple(problems))


def _end_of_list(word: int, visited: set[int], limit: int) -> Trouble | None:
    """Return why a list cannot be followed to `word`, in the order of the checks."""
    if word == 0:
        return Trouble.NULL_NEXT
    wrong = pointer_trouble(word)
    if wrong is not None:
        return wrong
    if word in visited:
        return Trouble.CYCLE
    return Trouble.TOO_LONG if len(visited) >= limit else None
