"""Chains of nested rmap entries of one memslot.

A chain is what `memslot->arch.rmap[index]` leads to, in packed words:
no key (the word is 0), an int with bit 0 set (a single entry), or a list
`[tail word with bit 0 set, oldest node, ..., newest node]`. The list is
*oldest first*: pushing at the head of the kernel's list is an append here.
"""

from collections.abc import Iterator

from nestscope.decoders.words.rmap import RMAP_GPA, RMAP_LPID_SHIFT, RMAP_SINGLE
from nestscope.sim.constants import U64

Chain = int | list[int]
Rmap = dict[int, Chain]


def pack(l1_lpid: int, n_gpa: int) -> int:
    """Return the 64-bit rmap word of nested guest `l1_lpid` and address `n_gpa` (bit 0 clear)."""
    return ((l1_lpid << RMAP_LPID_SHIFT) & U64) | (n_gpa & RMAP_GPA)


def unpack(word: int) -> tuple[int, int]:
    """Return `(l1_lpid, n_gpa)` of a packed word."""
    return word >> RMAP_LPID_SHIFT, word & RMAP_GPA


def stored_words(chain: Chain) -> Iterator[int]:
    """Yield every word of a chain as it lies in memory, head (newest) first."""
    if isinstance(chain, int):
        yield chain
    else:
        yield from reversed(chain)


def walked_words(chain: Chain, *, whole: bool = False) -> Iterator[int]:
    """Yield the words that the kernel's own walk sees, head first.

    `for_each_nest_rmap_safe` takes a node whose word is 0 for the end of the
    list. l1_lpid 0 at n_gpa 0 packs to just that (only a tail has bit 0 to keep
    it apart), so everything older is never visited. `whole`: finding 0001 is mended,
    the walk ends where the list does.
    """
    for word in stored_words(chain):
        if word == 0 and not whole:
            return
        yield word


def insert(rmap: Rmap, index: int, word: int, *, whole: bool = False) -> None:
    """Add an entry to the chain of `index`, unless the kernel's walk finds it there.

    `kvmhv_insert_nest_rmap`, transitions 4 (empty to single), 5 (single to
    list), 6 (push at the head) and 7 (duplicate: nothing changes). `whole` as of
    `walked_words`.
    """
    chain = rmap.get(index)
    if chain is None:
        rmap[index] = word | RMAP_SINGLE
        return
    if isinstance(chain, int):
        if chain != word | RMAP_SINGLE:
            rmap[index] = [chain, word]
        return
    if 0 in chain:
        walked = walked_words(chain, whole=whole)
        if any((seen | RMAP_SINGLE) == (word | RMAP_SINGLE) for seen in walked):
            return
    elif word in chain or chain[0] == word | RMAP_SINGLE:
        return
    chain.append(word)


def take(rmap: Rmap, index: int, *, whole: bool = False) -> list[int]:
    """Empty the chain of `index` and return the words that the kernel's walk sees.

    `llist_del_all` in `kvmhv_remove_nest_rmap_list`. `whole` as of `walked_words`.
    """
    chain = rmap.pop(index, None)
    return [] if chain is None else list(walked_words(chain, whole=whole))
