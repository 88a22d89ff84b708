from hypothesis import given

from nestscope.decoders.words import pate, prte

from ..strategies import words
from .agreement import assert_masks_agree, assert_masks_cover, assert_nothing_lost

MASKS = {
    "rts1": pate.PATE_RTS1,
    "rpdb": pate.PATE_RPDB,
    "rts2": pate.PATE_RTS2,
    "rpds": pate.PATE_RPDS,
}


@given(words, words)
def test_every_entry_survives_parse_and_build(dw0, dw1):
    assert_nothing_lost(prte.PRTE0_BITS, dw0)
    raw = dw0.to_bytes(8, "big") + dw1.to_bytes(8, "big")
    assert prte.PRTE.build(prte.PRTE.parse(raw)) == raw
    assert prte.PRTE.sizeof() == prte.PRTE_SIZE


@given(words)
def test_the_first_doubleword_is_a_pate_without_hr(word):
    assert_masks_agree(prte.PRTE0_BITS, word, MASKS)


def test_every_bit_has_one_mask():
    assert_masks_cover(prte.PRTE0_BITS, MASKS, prte.PRTE0_RESERVED)


def test_describe_takes_one_or_both_doublewords():
    word = pate.make_dw0(0x20_0000, 13, hr=False)
    names = [f.name for f in prte.describe(word)]
    assert names == ["reserved_0", "rts1", "reserved_3", "rpdb", "rts2", "rpds"]
    assert prte.describe(word << 64 | 7)[-1].meaning == "should be 0, is 0x7"
