"""Rules about single chains of the rmap: form, entries, and where the list leads."""

from collections.abc import Iterator

import numpy as np

from nestscope.decoders.audit.finding import Found, rule
from nestscope.decoders.audit.view import Numbers, Places, StateView, VmView
from nestscope.decoders.state import FORM_LIST, FORM_SINGLE
from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT

_WORD = "kernel address of the gfn's rmap word"
_REMOVED_IN_PART = (
    "`kvmhv_remove_nest_rmap_range` empties the word and walks the list only up to there: "
    "the shadow leaves of the rest stay, without an entry (I1), and their nodes are lost."
)


@rule(
    "I5.form",
    "chain is a single entry, or a list of two and more",
    consequence="No path of `kvmhv_insert_nest_rmap` makes another form: the word or the list "
    "was overwritten, and entries are missing.",
    address=_WORD,
)
def chain_has_its_form(state: StateView) -> Iterator[Found]:
    """A word with bit 0 is one entry; a pointer leads to two entries at least."""
    for view, number in _memslots(state):
        if view.gap_slots & {number, -1}:
            continue  # a list that could not be read to its end may look like anything
        index = view.vm.memslots[number].rmap.index
        wrong = np.where(index["form"] == FORM_SINGLE, index["count"] != 1, index["count"] < 2)
        for at in np.flatnonzero(wrong).tolist():
            form = "list" if int(index["form"][at]) == FORM_LIST else "single"
            yield found(view, number, at, f"a {form} with {int(index['count'][at])} entries")


@rule(
    "I5.zero-entry",
    "only the tail packs to 0",
    consequence="`for_each_nest_rmap_safe` takes an entry of 0 (l1_lpid 0, n_gpa 0) for the "
    "end. " + _REMOVED_IN_PART,
    address=_WORD,
)
def no_entry_is_zero(state: StateView) -> Iterator[Found]:
    """No node before the tail holds the entry 0. See finding 0001: healthy kernels get there."""
    for view, number in _memslots(state):
        words, chain, position = _entries(view, number)
        count = view.vm.memslots[number].rmap.index["count"].astype(np.int64)
        ends_early = (words == 0) & (position < count[chain] - 1)
        for at in np.flatnonzero(ends_early).tolist():
            message = (
                "an entry that packs to 0 (l1_lpid 0, n_gpa 0) is no tail: "
                "the kernel's walk of the chain ends there"
            )
            yield found(view, number, int(chain[at]), message, 0)


@rule(
    "I5.sub-page",
    "n_gpa of an entry is the start of a page",
    consequence="The kernel looks for a shadow leaf at an address where none begins; the leaf "
    "that the entry was made for is not found any more.",
    address=_WORD,
)
def entry_is_a_page(state: StateView) -> Iterator[Found]:
    """The low bits of n_gpa are 0 up to the host's base page size."""
    for view, number in _memslots(state):
        words, chain, _ = _entries(view, number)
        low = np.uint64((1 << view.page_shift) - 1)
        for at in np.flatnonzero(words & low != 0).tolist():
            message = "the entry's n_gpa is not the start of a page"
            yield found(view, number, int(chain[at]), message, int(words[at]))


@rule(
    "I5.duplicate",
    "chain has no entry twice",
    consequence="`kvmhv_insert_nest_rmap` looks for the entry before it adds one, so the list "
    "was overwritten. The host leaks a node at each further insertion.",
    address=_WORD,
)
def entries_differ(state: StateView) -> Iterator[Found]:
    """All entries `(l1_lpid, n_gpa)` of a chain differ."""
    for view, number in _memslots(state):
        words, chain, _ = _entries(view, number)
        order = np.lexsort((words, chain))
        again = (np.diff(chain[order]) == 0) & (np.diff(words[order]) == 0)
        for at in np.unique(order[1:][again]).tolist():
            message = "the chain has an entry twice"
            yield found(view, number, int(chain[at]), message, int(words[at]))


def found(view: VmView, number: int, at: int, message: str, word: int | None = None) -> Found:
    """Return what is wrong with chain `at` of a memslot; `word` is the entry that is."""
    memslot = view.vm.memslots[number]
    gfn = int(memslot.rmap.index["gfn"][at])
    array = memslot.rmap_array
    lpid = None if word is None else word >> RMAP_LPID_SHIFT
    n_gpa = None if word is None else word & ((1 << RMAP_LPID_SHIFT) - 1)
    place = None if array is None else array + 8 * (gfn - memslot.base_gfn)
    text = f"gfn {gfn:#x}: {message}" + ("" if word is None else f": ({lpid}, {n_gpa:#x})")
    return Found(text, view.vm.kvm, memslot.id, gfn, lpid, n_gpa, place)


def _memslots(state: StateView) -> Iterator[tuple[VmView, int]]:
    for view in state.vms:
        for number in range(len(view.vm.memslots)):
            yield view, number


def _entries(view: VmView, number: int) -> tuple[Numbers, Places, Places]:
    """Return of each entry of a memslot: its word, its chain's place, its place in the chain."""
    count = view.vm.memslots[number].rmap.index["count"].astype(np.int64)
    words = view.entries.word[view.entries_of(number)]
    chain = view.chain_of_entries(number)
    position = np.arange(len(words)) - np.repeat(np.cumsum(count) - count, count)
    return words, chain, position
