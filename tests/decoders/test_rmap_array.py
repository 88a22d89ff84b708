from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders import rmap_fronts, rmap_words
from nestscope.decoders.chain_troubles import LINEAR_MAP, MAX_TOLD
from nestscope.decoders.chains import read_chain
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.rmap_array import read_rmap
from nestscope.decoders.state import FORM_LIST, FORM_NAMES, Chain, Entry
from nestscope.decoders.words.rmap import make_entry

from .memories import BulkSparseMemory, SparseMemory
from .rmaps_in_memory import ARRAY, NODES, Rmap, malformed
from .strategies import entries

kinds = pytest.mark.parametrize("kind", [SparseMemory, BulkSparseMemory])
orders = st.sampled_from(("little", "big"))
BASE = 0x100


def read(rmap: Rmap, few: int = rmap_fronts.FEW, **more):
    """Read with another bound between the bulk path and the reader of one chain."""
    with patch.object(rmap_fronts, "FEW", few):
        return read_rmap(rmap.memory, ARRAY, rmap.npages, BASE, rmap.order, **more)


def one_by_one(rmap: Rmap):
    """The same by `read_chain` alone: the specification of the bulk path."""
    chains, problems = [], []
    for page in range(rmap.npages):
        place = ARRAY + 8 * page
        word = int.from_bytes(rmap.memory.words.get(place, bytes(8)), rmap.order)
        path = f"rmap[gfn {BASE + page}]"
        reading = read_chain(rmap.memory, word, rmap.order, path=path, address=place)
        problems += reading.problems
        if word:
            chains.append(Chain(BASE + page, FORM_NAMES[reading.form], reading.entries))
    return chains, problems


@kinds
@settings(max_examples=50)
@given(order=orders, few=st.integers(0, 20), data=st.data())
def test_bulk_says_what_the_reader_of_one_chain_says(kind, order, few, data):
    rmap = Rmap(kind(), 64, order)
    for page, pairs in data.draw(st.dictionaries(st.integers(0, 63), entries)).items():
        rmap.chain(page, pairs)
    chains, problems = read(rmap, few)
    assert (list(chains), problems) == one_by_one(rmap)


@kinds
@settings(max_examples=100)
@given(order=orders, few=st.integers(0, 20), data=st.data())
def test_bulk_says_the_same_of_malformed_chains(kind, order, few, data):
    rmap = data.draw(malformed(kind(), order))
    chains, problems = read(rmap, few, limit=100)
    assert (list(chains), problems) == one_by_one(rmap)


@kinds
@pytest.mark.parametrize("few", [0, 16])
def test_a_list_of_each_length_keeps_its_order(kind, few):
    rmap = Rmap(kind(), 40)
    for page in range(40):
        rmap.chain(page, [(lpid, page << 16) for lpid in range(1, page + 2)])
    chains, problems = read(rmap, few)
    assert problems == []
    for page, chain in enumerate(chains):
        assert chain.gfn == BASE + page
        assert chain.form == ("list" if page else "single")
        assert chain.entries == tuple(Entry(lpid, page << 16) for lpid in range(1, page + 2))


def test_many_lists_cost_as_many_reads_as_the_longest_has_nodes():
    class Counting(BulkSparseMemory):
        calls = 0

        def read_many(self, addresses, length):
            self.calls += 1
            return super().read_many(addresses, length)

    rmap = Rmap(Counting(), 400)
    for page in range(400):
        rmap.chain(page, [(lpid, 0) for lpid in (3, 2, 1)])
    chains, _ = read(rmap)
    assert len(chains.entries) == 1200
    assert rmap.memory.calls == 2


def test_cycles_are_noticed_long_before_the_limit():
    class Counting(BulkSparseMemory):
        calls = 0

        def read_many(self, addresses, length):
            self.calls += 1
            return super().read_many(addresses, length)

    rmap = Rmap(Counting(), 40)
    for page in range(40):
        back = NODES + 16 * len(rmap.nodes)
        rmap.node(back + 16, make_entry(1, 0x1000))
        rmap.node(back, make_entry(2, 0x1000))
        rmap.word(page, back)
    chains, problems = read(rmap, limit=500)
    assert rmap.memory.calls <= 6
    assert len(problems) == 40
    assert {len(chain.entries) for chain in chains} == {2}


def test_an_rmap_without_entries_is_empty():
    chains, problems = read(Rmap(SparseMemory(), 16))
    assert (list(chains), problems) == ([], [])


def test_the_path_of_the_caller_leads_into_the_state():
    rmap = Rmap(SparseMemory(), 4)
    rmap.word(2, NODES + 4)
    _, problems = read(rmap, path="vms[0].memslots[1].rmap")
    assert [p.path for p in problems] == [f"vms[0].memslots[1].rmap[gfn {BASE + 2}]"]
    assert [p.address for p in problems] == [ARRAY + 16]


@pytest.mark.parametrize("few", [0, 16])
def test_a_list_that_cannot_be_read_is_there_without_entries(few):
    rmap = Rmap(SparseMemory(), 1)
    rmap.word(0, LINEAR_MAP + 0x7000_0000)
    chains, problems = read(rmap, few)
    assert list(chains) == [Chain(BASE, FORM_NAMES[FORM_LIST], ())]
    assert len(problems) == 1


@pytest.mark.parametrize("few", [0, 16])
def test_the_nodes_of_all_lists_together_are_bounded(few):
    rmap = Rmap(SparseMemory(), 4)
    for page in range(4):
        rmap.chain(page, [(lpid, 0) for lpid in range(1, 5)])
    chains, problems = read(rmap, few, max_nodes=6)
    assert sum(chain.form == "list" for chain in chains) == 4
    assert len(chains.entries) <= 6 + 4
    assert problems


@kinds
def test_a_hole_in_the_array_is_named_and_the_rest_is_there(kind):
    memory = kind()
    rmap = Rmap(memory, 2048)
    memory.zero.clear()
    memory.table(ARRAY, 4096)
    memory.table(ARRAY + 3 * 4096, 4096)
    rmap.word(0, make_entry(1, 0x1000, single=True))
    rmap.word(2047, make_entry(2, 0x2000, single=True))
    chains, problems = read(rmap)
    assert [chain.gfn for chain in chains] == [BASE, BASE + 2047]
    assert [(p.path, p.address) for p in problems] == [("rmap", ARRAY + 4096)]
    message = f"the words of gfns {BASE + 512} to {BASE + 1535} cannot be read"
    assert problems[0].message == message


def test_the_words_after_the_last_whole_page_of_a_torn_array_are_read():
    memory = SparseMemory()
    rmap = Rmap(memory, 600)
    memory.zero.clear()
    memory.table(ARRAY + 4096, 88 * 8)
    rmap.word(599, make_entry(1, 0x1000, single=True))
    chains, problems = read(rmap)
    assert [chain.gfn for chain in chains] == [BASE + 599]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("array", "npages"), [(ARRAY, 1 << 31), (ARRAY, 1 << 62), (ARRAY, -1), ((1 << 64) - 8, 2)]
)
def test_a_wild_count_is_refused_and_nothing_is_read(array, npages):
    memory = SparseMemory()
    chains, problems = read_rmap(memory, array, npages, 0)
    assert len(chains) == 0
    assert "not possible" in problems[0].message
    assert memory.reads == 0


def test_an_array_in_nothing_is_given_up():
    class Nothing:
        tries = 0

        def read(self, address, length):
            self.tries += 1
            raise UnreadableMemoryError(address, length, "nothing there")

    memory = Nothing()
    with patch.object(rmap_words, "MAX_UNREADABLE", 8 << 20):
        chains, problems = read_rmap(memory, ARRAY, (1 << 31) - 1, 0)
    assert len(chains) == 0
    assert [p.message for p in problems] == ["the words of gfns 0 to 2147483646 cannot be read"]
    assert memory.tries < 4096


def test_many_problems_are_counted_and_not_listed():
    rmap = Rmap(SparseMemory(), 3000)
    for page in range(3000):
        rmap.word(page, 0x1000)
    chains, problems = read(rmap)
    assert len(chains) == 3000
    assert len(problems) == MAX_TOLD + 1
    assert problems[-1].message == f"{3000 - MAX_TOLD} further problems are not listed"


def test_problems_of_few_long_lists_are_counted_too():
    rmap = Rmap(SparseMemory(), 2)
    for page in range(2):
        word = make_entry(1, 0, single=True)
        for _ in range(900):
            word = rmap.node(word, make_entry(2, 0) | 2)
        rmap.word(page, word)
    chains, problems = read(rmap)
    assert len(chains.entries) == 2 * 901
    assert len(problems) == MAX_TOLD + 1
    assert problems[-1].message == f"{1800 - MAX_TOLD} further problems are not listed"


@pytest.mark.parametrize("npages", [8192, 8193, 8704, 9000])
def test_a_wide_array_is_read_to_its_last_word(npages):
    rmap = Rmap(BulkSparseMemory(), npages)
    pages = sorted({0, 511, 512, 8191, npages - 1})
    for page in pages:
        rmap.chain(page, [(1, page << 12)])
    chains, problems = read(rmap)
    assert problems == []
    assert [chain.gfn - BASE for chain in chains] == pages
    assert [chain.entries[0].n_gpa >> 12 for chain in chains] == pages
