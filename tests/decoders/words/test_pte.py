import pytest
from hypothesis import given

from nestscope.decoders.words import pte
from nestscope.decoders.words.field import WordError

from ..strategies import words
from .agreement import assert_masks_agree, assert_masks_cover, assert_nothing_lost

MASKS = {
    "v": pte.PTE_V,
    "l": pte.PTE_L,
    "sw0": pte.PTE_SW0,
    "rpn": pte.PTE_RPN,
    "sw1": pte.PTE_SW1,
    "sw2": pte.PTE_SW2,
    "sw3": pte.PTE_SW3,
    "r": pte.PTE_R,
    "c": pte.PTE_C,
    "att": pte.PTE_ATT,
    "eaa": pte.PTE_EAA,
}

SEEN_LIVE = 0xC000_0000_02D5_0387
"""A host leaf that a real kernel's debugfs printed."""


@given(words)
def test_every_word_survives_parse_and_build(word):
    assert_nothing_lost(pte.PTE_BITS, word)


@given(words)
def test_masks_say_what_construct_says(word):
    assert_masks_agree(pte.PTE_BITS, word, MASKS)
    assert pte.rpn(word) == pte.PTE.parse(word.to_bytes(8, "big")).rpn
    assert pte.real_address(word) == pte.rpn(word) << 12


def test_every_bit_has_one_mask():
    assert_masks_cover(pte.PTE_BITS, MASKS, pte.PTE_RESERVED)


@given(words)
def test_software_bits_are_the_four_of_the_layout(word):
    parsed = pte.PTE.parse(word.to_bytes(8, "big"))
    assert bool(word & pte.PTE_SW) == any((parsed.sw0, parsed.sw1, parsed.sw2, parsed.sw3))


def test_a_pte_is_big_endian_in_memory():
    assert pte.PTE.parse(bytes.fromhex("c000000002d50387")).rpn == 0x2D50


def test_a_live_leaf_reads_as_the_kernel_meant_it():
    assert pte.is_leaf(SEEN_LIVE)
    assert pte.real_address(SEEN_LIVE) == 0x2D5_0000
    assert pte.permissions(SEEN_LIVE) == pte.Permissions(
        privileged=False, read=True, write=True, execute=True
    )
    meanings = {field.name: field.meaning for field in pte.describe(SEEN_LIVE)}
    assert meanings["rpn"] == "real address 0x2d50000"
    assert meanings["r"] == "referenced"
    assert meanings["c"] == "changed"
    assert meanings["att"] == "normal memory"
    assert meanings["eaa"] == "-rwx"
    assert "SOFT_DIRTY" in meanings["sw3"]


@pytest.mark.parametrize(
    ("word", "leaf"),
    [(0xC << 60, True), (0x8 << 60, False), (0x4 << 60, False), (0x6 << 60, False)],
)
def test_a_leaf_needs_v_and_l(word, leaf):
    assert pte.is_leaf(word) is leaf


def test_isa_bit_numbers():
    bits = {field.name: field.isa_bits for field in pte.describe(0)}
    assert bits["sw0"] == "2"
    assert bits["rpn"] == "7:51"
    assert bits["eaa"] == "60:63"


def test_an_invalid_pte_of_linux_is_named():
    (sw0,) = (f for f in pte.describe(pte.PTE_SW0 | pte.PTE_L) if f.name == "sw0")
    assert "_PAGE_INVALID" in sw0.meaning


def test_more_than_64_bits_are_refused():
    with pytest.raises(WordError):
        pte.describe(1 << 64)
