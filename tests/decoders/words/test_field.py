import pytest
from construct import Bit, BitsInteger, Struct

from nestscope.decoders.words.field import WordError, fields

LAYOUT = Struct("a" / Bit, "reserved_1" / BitsInteger(3), "b" / BitsInteger(4))


def test_fields_are_numbered_as_the_isa_does_bit_0_first():
    found = fields(LAYOUT, 0b1_010_0110, {"b": lambda value: f"b is {value}"})
    assert [(f.name, f.isa_bits, f.value, f.meaning) for f in found] == [
        ("a", "0", 1, "0x1"),
        ("reserved_1", "1:3", 2, "should be 0, is 0x2"),
        ("b", "4:7", 6, "b is 6"),
    ]


def test_a_reserved_field_that_is_zero_needs_no_words():
    assert fields(LAYOUT, 0, {})[1].meaning == ""


@pytest.mark.parametrize("value", [256, -1])
def test_a_value_that_does_not_fit_is_refused(value):
    with pytest.raises(WordError, match="not a word of 8 bits"):
        fields(LAYOUT, value, {})
