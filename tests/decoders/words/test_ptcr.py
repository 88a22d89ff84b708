from hypothesis import given

from nestscope.decoders.words import ptcr

from ..strategies import words
from .agreement import assert_masks_agree, assert_masks_cover, assert_nothing_lost

MASKS = {"patb": ptcr.PTCR_PATB, "pats": ptcr.PTCR_PATS}


@given(words)
def test_every_word_survives_parse_and_build(word):
    assert_nothing_lost(ptcr.PTCR_BITS, word)


@given(words)
def test_masks_say_what_construct_says(word):
    assert_masks_agree(ptcr.PTCR_BITS, word, MASKS)
    parsed = ptcr.PTCR.parse(word.to_bytes(8, "big"))
    assert ptcr.partition_table(word) == parsed.patb * 4096
    assert ptcr.partition_table_size(word) == 2 ** (parsed.pats + 12)


def test_every_bit_has_one_mask():
    assert_masks_cover(ptcr.PTCR_BITS, MASKS, ptcr.PTCR_RESERVED)


def test_the_largest_nested_table_has_room_for_4096_guests():
    assert ptcr.partition_count(0x4_0000 | 4) == 4096


def test_describe_says_address_and_size():
    meanings = {f.name: f.meaning for f in ptcr.describe(0x4_0000)}
    assert meanings["patb"] == "partition table at 0x40000"
    assert meanings["pats"] == "256 entries, 4096 bytes"
