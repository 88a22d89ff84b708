"""Checks that every word format gets: nothing is lost, masks say what Construct says."""

from collections.abc import Mapping

from construct import Bitwise, Struct


def field_of(word: int, mask: int) -> int:
    """The bits of `word` under a contiguous `mask`, right-aligned."""
    lowest = mask & -mask
    return (word & mask) // lowest


def assert_nothing_lost(bits: Struct, word: int) -> None:
    raw = word.to_bytes(8, "big")
    layout = Bitwise(bits)
    assert layout.build(layout.parse(raw)) == raw


def assert_masks_agree(bits: Struct, word: int, masks: Mapping[str, int]) -> None:
    parsed = Bitwise(bits).parse(word.to_bytes(8, "big"))
    for name, mask in masks.items():
        assert parsed[name] == field_of(word, mask), name


def assert_masks_cover(bits: Struct, masks: Mapping[str, int], reserved: int) -> None:
    """Every bit is either under exactly one mask, or reserved."""
    seen = reserved
    for mask in masks.values():
        assert seen & mask == 0
        seen |= mask
    assert seen == 2**64 - 1
    named = {member.name for member in bits.subcons if not str(member.name).startswith("reserved")}
    assert named == set(masks)
