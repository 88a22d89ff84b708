import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.words import rmap

from ..strategies import lpids, n_gpas, words
from .agreement import assert_masks_agree, assert_masks_cover, assert_nothing_lost

MASKS = {"l1_lpid": rmap.RMAP_LPID, "n_gpa": rmap.RMAP_GPA, "single": rmap.RMAP_SINGLE}
orders = st.sampled_from(("little", "big"))


@given(words, orders)
def test_every_word_survives_parse_and_build(word, order):
    assert_nothing_lost(rmap.ENTRY_BITS, word)
    raw = word.to_bytes(8, order)
    assert rmap.RMAP_WORD[order].build(rmap.RMAP_WORD[order].parse(raw)) == raw
    assert rmap.ENTRY[order].build(rmap.ENTRY[order].parse(raw)) == raw


@given(words, words, orders)
def test_every_node_survives_parse_and_build(following, entry, order):
    raw = following.to_bytes(8, order) + entry.to_bytes(8, order)
    node = rmap.RMAP_NESTED[order].parse(raw)
    assert rmap.RMAP_NESTED[order].build(node) == raw
    assert node.next == rmap.decode_word(following)
    assert node.rmap.l1_lpid == rmap.l1_lpid(entry)
    assert rmap.RMAP_NESTED[order].sizeof() == rmap.RMAP_NESTED_SIZE


@given(words, orders)
def test_masks_say_what_construct_says(word, order):
    assert_masks_agree(rmap.ENTRY_BITS, word, MASKS)
    parsed = rmap.ENTRY[order].parse(word.to_bytes(8, order))
    assert rmap.l1_lpid(word) == parsed.l1_lpid
    assert rmap.n_gpa(word) == parsed.n_gpa * 4096
    single = rmap.RMAP_WORD[order].parse((word | 1).to_bytes(8, order))
    assert single == rmap.Single(parsed.l1_lpid, parsed.n_gpa * 4096, parsed.reserved_52)


def test_every_bit_has_one_mask():
    assert_masks_cover(rmap.ENTRY_BITS, MASKS, rmap.RMAP_RESERVED)


@given(lpids, n_gpas)
def test_make_entry_is_undone_by_the_helpers(lpid, address):
    word = rmap.make_entry(lpid, address, single=True)
    assert rmap.decode_word(word) == rmap.Single(lpid, address)
    assert rmap.make_entry(lpid, address) == word - 1


def test_the_three_forms_of_the_kernel():
    assert rmap.decode_word(0) == rmap.Empty()
    assert rmap.decode_word(0x0010_0000_0012_3001) == rmap.Single(1, 0x12_3000)
    assert rmap.decode_word(0xC000_0000_0234_5670) == rmap.ListPointer(0xC000_0000_0234_5670)


def test_low_bits_of_an_n_gpa_are_dropped_as_the_kernel_drops_them():
    assert rmap.make_entry(2, 0x1_2345) == 2 << 52 | 0x1_2000


@pytest.mark.parametrize("arguments", [(4096, 0), (-1, 0), (1, 1 << 52), (1, -1)])
def test_make_entry_refuses_what_does_not_fit(arguments):
    with pytest.raises(ValueError, match="no rmap entry can hold"):
        rmap.make_entry(*arguments)


@pytest.mark.parametrize(
    "form",
    [
        rmap.Single(1, 0x123),
        rmap.Single(1, 0, 1 << 11),
        rmap.ListPointer(0),
        rmap.ListPointer(0xC000_0000_0000_0001),
        rmap.ListPointer(1 << 64),
    ],
)
def test_a_form_that_would_read_back_as_another_is_refused(form):
    with pytest.raises(ValueError, match=r"cannot be|can hold"):
        rmap.encode_word(form)


def test_describe_names_each_form():
    assert rmap.describe(0)[0].meaning == "no entry"
    single = {f.name: f.meaning for f in rmap.describe(0x0030_0000_0001_0001)}
    assert single["l1_lpid"] == "the guest's LPID 3"
    assert single["n_gpa"] == "nested real address 0x10000"
    assert rmap.describe(0xC000_0000_0234_5670)[0].meaning.startswith("list: struct rmap_nested")
