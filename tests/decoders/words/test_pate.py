import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.words import pate
from nestscope.decoders.words.field import WordError

from ..strategies import words
from .agreement import assert_masks_agree, assert_masks_cover, assert_nothing_lost

MASKS0 = {
    "hr": pate.PATE_HR,
    "rts1": pate.PATE_RTS1,
    "rpdb": pate.PATE_RPDB,
    "rts2": pate.PATE_RTS2,
    "rpds": pate.PATE_RPDS,
}
MASKS1 = {"gr": pate.PATE_GR, "prtb": pate.PATE_PRTB, "prts": pate.PATE_PRTS}

LINUX = 0xC000_0000_0000_00AD
"""What Linux ORs to the root of a 52-bit tree (kvmhv_set_ptbl_entry's caller)."""


@given(words, words)
def test_every_entry_survives_parse_and_build(dw0, dw1):
    assert_nothing_lost(pate.PATE0_BITS, dw0)
    assert_nothing_lost(pate.PATE1_BITS, dw1)
    raw = dw0.to_bytes(8, "big") + dw1.to_bytes(8, "big")
    assert pate.PATE.build(pate.PATE.parse(raw)) == raw
    assert pate.PATE.sizeof() == pate.PATE_SIZE


@given(words)
def test_masks_say_what_construct_says(word):
    assert_masks_agree(pate.PATE0_BITS, word, MASKS0)
    assert_masks_agree(pate.PATE1_BITS, word, MASKS1)
    parsed = pate.PATE.parse(word.to_bytes(8, "big") * 2)
    assert pate.rts(word) == parsed.dw0.rts1 * 8 + parsed.dw0.rts2
    assert pate.root_table(word) == parsed.dw0.rpdb * 256
    assert pate.root_bits(word) == parsed.dw0.rpds
    assert pate.process_table(word) == parsed.dw1.prtb * 4096
    assert pate.process_table_size(word) == 2 ** (12 + parsed.dw1.prts)


def test_every_bit_has_one_mask():
    assert_masks_cover(pate.PATE0_BITS, MASKS0, pate.PATE0_RESERVED)
    assert_masks_cover(pate.PATE1_BITS, MASKS1, pate.PATE1_RESERVED)


def test_the_word_that_linux_writes_is_a_tree_of_52_bits_with_a_13_bit_root():
    assert pate.address_bits(LINUX) == 52
    assert pate.root_bits(LINUX) == 13
    assert pate.make_dw0(0x10_0000, 13) == LINUX | 0x10_0000


@given(st.integers(0, 2**52 - 1), st.integers(0, 31), st.integers(31, 62), st.booleans())
def test_make_dw0_is_undone_by_the_helpers(frame, bits, translated, hr):
    word = pate.make_dw0(frame * 256, bits, translated, hr=hr)
    parsed = pate.PATE.parse(word.to_bytes(8, "big") + bytes(8)).dw0
    assert (parsed.rpdb, parsed.rpds, parsed.hr, parsed.reserved_3) == (frame, bits, hr, 0)
    assert pate.address_bits(word) == translated


@pytest.mark.parametrize("arguments", [(1, 13, 52), (0, 32, 52), (0, 13, 63), (0, 13, 30)])
def test_make_dw0_refuses_what_does_not_fit(arguments):
    with pytest.raises(ValueError, match="no PATE can hold"):
        pate.make_dw0(*arguments)


def test_describe_takes_one_or_both_doublewords():
    one = pate.describe(LINUX | 0x10_0000)
    assert [f.name for f in one] == ["hr", "rts1", "reserved_3", "rpdb", "rts2", "rpds"]
    assert one[1].meaning == "with RTS2: tree of 2^52 bytes"
    assert one[3].meaning == "root directory at 0x100000"
    both = pate.describe((LINUX << 64) | 0x5000_0004)
    assert both[:6] == pate.describe(LINUX)
    assert both[6:] == pate.describe_dw1(0x5000_0004)
    assert both[-1].meaning == "65536 bytes"
    with pytest.raises(WordError):
        pate.describe(1 << 128)
