import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.words import pde

from ..strategies import words
from .agreement import assert_masks_agree, assert_masks_cover, assert_nothing_lost

MASKS = {"v": pde.PDE_V, "l": pde.PDE_L, "nlb": pde.PDE_NLB, "nls": pde.PDE_NLS}


@given(words)
def test_every_word_survives_parse_and_build(word):
    assert_nothing_lost(pde.PDE_BITS, word)


@given(words)
def test_masks_say_what_construct_says(word):
    assert_masks_agree(pde.PDE_BITS, word, MASKS)
    parsed = pde.PDE.parse(word.to_bytes(8, "big"))
    assert pde.next_table(word) == parsed.nlb * 256
    assert pde.next_bits(word) == parsed.nls
    assert pde.is_pde(word) == bool(parsed.v and not parsed.l)


def test_every_bit_has_one_mask():
    assert_masks_cover(pde.PDE_BITS, MASKS, pde.PDE_RESERVED)


@given(st.integers(0, 2**52 - 1), st.integers(0, 31))
def test_make_pde_builds_what_construct_builds(frame, bits):
    built = pde.PDE.build(
        {"v": 1, "l": 0, "reserved_2": 0, "nlb": frame, "reserved_56": 0, "nls": bits}
    )
    assert pde.make_pde(frame * 256, bits) == int.from_bytes(built, "big")


@pytest.mark.parametrize(("table", "bits"), [(0x80, 5), (1 << 60, 5), (0x1000, 32)])
def test_make_pde_refuses_what_does_not_fit(table, bits):
    with pytest.raises(ValueError, match="no PDE can hold"):
        pde.make_pde(table, bits)


def test_describe_says_where_it_leads():
    meanings = {f.name: f.meaning for f in pde.describe(0x8000_0000_0020_0009)}
    assert meanings["nlb"] == "next table at 0x200000"
    assert meanings["nls"] == "512 entries, 4096 bytes"
    assert meanings["l"] == "leads to a next table"
