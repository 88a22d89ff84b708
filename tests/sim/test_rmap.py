"""Chains of rmap entries against a plain set, and their exact shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim import rmap

entries = st.tuples(st.integers(0, 4095), st.integers(0, 2**40 - 1).map(lambda p: p << 12))
few_entries = st.tuples(st.integers(1, 3), st.sampled_from([0, 0x1000, 0x10000]))


@given(entries)
def test_a_packed_word_gives_back_its_fields(entry: tuple[int, int]) -> None:
    assert rmap.unpack(rmap.pack(*entry)) == entry


def test_the_first_entry_is_single_with_the_low_bit() -> None:
    chains: rmap.Rmap = {}
    rmap.insert(chains, 7, rmap.pack(3, 0x1000))
    assert chains == {7: 0x0030_0000_0000_1001}


def test_the_second_entry_makes_a_list_and_the_first_keeps_the_low_bit() -> None:
    chains: rmap.Rmap = {}
    rmap.insert(chains, 7, rmap.pack(3, 0x1000))
    rmap.insert(chains, 7, rmap.pack(2, 0x2000))
    assert list(rmap.stored_words(chains[7])) == [0x0020_0000_0000_2000, 0x0030_0000_0000_1001]


def test_a_new_entry_goes_to_the_head() -> None:
    chains: rmap.Rmap = {}
    for lpid in (1, 2, 3, 4):
        rmap.insert(chains, 0, rmap.pack(lpid, 0))
    assert [rmap.unpack(word)[0] for word in rmap.stored_words(chains[0])] == [4, 3, 2, 1]


@pytest.mark.parametrize("again", [1, 2, 3])
def test_an_entry_that_is_there_is_not_added_again(again: int) -> None:
    chains: rmap.Rmap = {}
    for lpid in (1, 2, 3):
        rmap.insert(chains, 0, rmap.pack(lpid, 0))
    rmap.insert(chains, 0, rmap.pack(again, 0))
    assert [rmap.unpack(word)[0] for word in rmap.stored_words(chains[0])] == [3, 2, 1]


@given(st.lists(st.tuples(st.sampled_from(["add", "take"]), st.integers(0, 2), few_entries)))
def test_membership_is_that_of_a_plain_set(
    steps: list[tuple[str, int, tuple[int, int]]],
) -> None:
    chains: rmap.Rmap = {}
    naive: set[tuple[int, int, int]] = set()
    for what, index, (lpid, n_gpa) in steps:
        if what == "add":
            rmap.insert(chains, index, rmap.pack(lpid, n_gpa))
            naive.add((index, lpid, n_gpa))
        else:
            taken = {(index, *rmap.unpack(word & ~1)) for word in rmap.take(chains, index)}
            assert taken == {entry for entry in naive if entry[0] == index}
            naive -= taken
    held = [
        (index, *rmap.unpack(word & ~1))
        for index, chain in chains.items()
        for word in rmap.stored_words(chain)
    ]
    assert len(held) == len(set(held))
    assert set(held) == naive


@given(st.lists(few_entries, min_size=1))
def test_only_the_last_word_has_the_low_bit(added: list[tuple[int, int]]) -> None:
    chains: rmap.Rmap = {}
    for entry in added:
        rmap.insert(chains, 0, rmap.pack(*entry))
    words = list(rmap.stored_words(chains[0]))
    assert [word & 1 for word in words] == [0] * (len(words) - 1) + [1]


def test_the_kernels_walk_stops_at_the_zero_word_of_lpid_0_at_0() -> None:
    chains: rmap.Rmap = {}
    for lpid in (1, 0, 2):
        rmap.insert(chains, 0, rmap.pack(lpid, 0))
    assert [word >> 52 for word in rmap.stored_words(chains[0])] == [2, 0, 1]
    assert [word >> 52 for word in rmap.walked_words(chains[0])] == [2]


def test_what_lies_behind_the_zero_word_is_added_again_and_again() -> None:
    chains: rmap.Rmap = {}
    for lpid in (1, 0, 0, 0, 1, 1):
        rmap.insert(chains, 0, rmap.pack(lpid, 0))
    assert [word >> 52 for word in rmap.stored_words(chains[0])] == [1, 0, 0, 0, 1]
