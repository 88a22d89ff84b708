import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.chains import FORM_EMPTY, read_chain
from nestscope.decoders.state import FORM_LIST, FORM_SINGLE, Entry
from nestscope.decoders.words.rmap import make_entry

from .memories import SparseMemory
from .rmaps_in_memory import NODES, Rmap, malformed
from .strategies import entries

orders = st.sampled_from(("little", "big"))
HOME = 0xC008_0000_0001_0000


def head(rmap: Rmap) -> int:
    return int.from_bytes(rmap.memory.words[HOME], rmap.order)


def reading_of(rmap: Rmap, **more):
    return read_chain(rmap.memory, head(rmap), rmap.order, address=HOME, **more)


@given(entries, orders)
def test_a_chain_is_read_from_head_to_tail(pairs, order):
    rmap = Rmap(SparseMemory(), 1, order)
    rmap.chain(0, pairs)
    reading = reading_of(rmap)
    assert reading.entries == tuple(Entry(*pair) for pair in pairs)
    assert reading.form == (FORM_SINGLE if len(pairs) == 1 else FORM_LIST)
    assert reading.nodes == tuple(reversed(rmap.nodes))
    assert reading.problems == ()


def test_the_figure_of_the_kernels_commit():
    rmap = Rmap(SparseMemory(), 1)
    rmap.chain(0, [(3, 0x3000), (2, 0x2000), (1, 0x1000)])
    reading = reading_of(rmap)
    assert reading.entries == (Entry(3, 0x3000), Entry(2, 0x2000), Entry(1, 0x1000))
    assert reading.problems == ()


def test_an_empty_word_has_no_chain():
    reading = read_chain(SparseMemory(), 0)
    assert (reading.form, reading.entries, reading.problems) == (FORM_EMPTY, (), ())


def test_a_single_entry_reads_no_memory():
    memory = SparseMemory()
    reading = read_chain(memory, make_entry(7, 0x1_0000, single=True))
    assert (reading.form, reading.entries) == (FORM_SINGLE, (Entry(7, 0x1_0000),))
    assert memory.reads == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (NODES + 4, "not aligned to 8 bytes"),
        (0x2, "not aligned to 8 bytes"),
        (0xC008_0000_0000_0000, "outside of the kernel's linear map"),
        (0x1000, "outside of the kernel's linear map"),
        (0xC000_0000_7000_0000, "cannot be read"),
    ],
)
def test_a_head_that_leads_nowhere(word, message):
    reading = read_chain(SparseMemory(), word, path="rmap[gfn 128]", address=HOME)
    assert (reading.form, reading.entries) == (FORM_LIST, ())
    (trouble,) = reading.problems
    assert message in trouble.message
    assert hex(word) in trouble.message
    assert (trouble.path, trouble.address) == ("rmap[gfn 128]", HOME)


@pytest.mark.parametrize("bad", [NODES + 4, 0xC008_0000_0000_0000, 0xC000_0000_7000_0000, 0])
def test_what_was_read_before_the_list_breaks_is_kept(bad):
    rmap = Rmap(SparseMemory(), 1)
    second = rmap.node(bad, make_entry(2, 0x2000))
    rmap.word(0, rmap.node(second, make_entry(1, 0x1000)))
    reading = reading_of(rmap)
    assert reading.entries == (Entry(1, 0x1000), Entry(2, 0x2000))
    assert [trouble.address for trouble in reading.problems] == [second]


def test_next_null_is_named_as_a_mid_state():
    rmap = Rmap(SparseMemory(), 1)
    rmap.word(0, rmap.node(0, make_entry(1, 0x1000)))
    (trouble,) = reading_of(rmap).problems
    assert "next is NULL" in trouble.message


@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_cycle_ends_with_each_node_read_once(target):
    rmap = Rmap(SparseMemory(), 1)
    back = NODES + 16 * (2 - target)
    for lpid in (3, 2, 1):
        following = rmap.nodes[-1] if rmap.nodes else back
        rmap.word(0, rmap.node(following, make_entry(lpid, 0x1000)))
    reading = reading_of(rmap)
    assert [entry.l1_lpid for entry in reading.entries] == [1, 2, 3]
    (trouble,) = reading.problems
    assert "leads back" in trouble.message
    assert hex(back) in trouble.message
    assert trouble.address == NODES


def test_a_list_longer_than_the_limit_is_cut():
    rmap = Rmap(SparseMemory(), 1)
    rmap.chain(0, [(lpid, 0x1000) for lpid in range(1, 11)])
    reading = reading_of(rmap, limit=4)
    assert [entry.l1_lpid for entry in reading.entries] == [1, 2, 3, 4]
    assert "more than 4 entries" in reading.problems[0].message


def test_a_list_of_exactly_the_limit_is_whole():
    rmap = Rmap(SparseMemory(), 1)
    rmap.chain(0, [(lpid, 0x1000) for lpid in range(1, 6)])
    reading = reading_of(rmap, limit=4)
    assert len(reading.entries) == 5
    assert reading.problems == ()


def test_reserved_bits_are_named_and_the_entry_is_kept():
    rmap = Rmap(SparseMemory(), 1)
    tail = make_entry(1, 0x1000, single=True) | 0x800
    node = rmap.node(tail, make_entry(2, 0x2000) | 0x4)
    rmap.word(0, node)
    reading = reading_of(rmap)
    assert reading.entries == (Entry(2, 0x2000), Entry(1, 0x1000))
    assert [trouble.address for trouble in reading.problems] == [node + 8, node]
    assert all("reserved bits" in trouble.message for trouble in reading.problems)


def test_a_zero_entry_is_nested_guest_0_at_address_0_and_no_problem():
    # for_each_nest_rmap_safe() ends there; that is for the audit to say, not for the reader.
    rmap = Rmap(SparseMemory(), 1)
    node = rmap.node(make_entry(1, 0x1000, single=True), 0)
    rmap.word(0, node)
    reading = reading_of(rmap)
    assert reading.entries == (Entry(0, 0), Entry(1, 0x1000))
    assert reading.problems == ()


@given(st.data(), orders)
def test_anything_ends_and_never_raises(data, order):
    rmap = data.draw(malformed(SparseMemory(), order))
    reading = reading_of(rmap, limit=20)
    assert len(reading.nodes) == len(set(reading.nodes)) <= 20
    assert len(reading.entries) - len(reading.nodes) in (0, 1)
    if reading.form == FORM_LIST and len(reading.entries) == len(reading.nodes):
        assert reading.problems
