import pytest
from construct import Container
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.words.field import WordError
from nestscope.decoders.words.hv_guest_state import (
    hv_guest_state,
    hv_guest_state_size,
    parse_hv_guest_state,
)

orders = st.sampled_from(("little", "big"))


def offset_of(name: str, version: int = 2) -> int:
    offset = 0
    for member in hv_guest_state(version, "little").subcons:
        if member.name == name:
            return offset
        offset += member.sizeof()
    raise KeyError(name)


@given(st.sampled_from((1, 2)), orders, st.binary(min_size=240, max_size=240))
def test_every_state_survives_parse_and_build(version, order, body):
    size = hv_guest_state_size(version)
    raw = (version.to_bytes(8, order) + body)[:size]
    state = parse_hv_guest_state(raw, order)
    assert state.version == version
    assert hv_guest_state(version, order).build(state) == raw


def test_offsets_are_those_of_the_kernels_structure():
    # From offsetof() over the structure of the prototype that real kernels accepted.
    offsets = {
        "lpid": 8,
        "vcpu_token": 12,
        "lpcr": 16,
        "hfscr": 48,
        "tb_offset": 56,
        "hdec_expiry": 88,
        "hdar": 128,
        "hdsisr": 136,
        "asdr": 152,
        "srr0": 160,
        "sprg": 176,
        "pidr": 208,
        "ppr": 224,
        "dawr1": 232,
        "dawrx1": 240,
    }
    assert {name: offset_of(name) for name in offsets} == offsets


def test_version_1_ends_after_ppr_and_version_2_after_dawrx1():
    assert hv_guest_state_size(1) == 232
    assert hv_guest_state_size(2) == 248


def test_the_timebase_offset_is_signed():
    raw = bytearray(248)
    raw[0] = 2
    raw[56:64] = b"\xff" * 8
    state = parse_hv_guest_state(bytes(raw), "little")
    assert isinstance(state, Container)
    assert state["tb_offset"] == -1


@pytest.mark.parametrize("version", [0, 3, 2**63])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(WordError, match="is not known"):
        parse_hv_guest_state(version.to_bytes(8, "big") + bytes(240), "big")


def test_the_wrong_byte_order_is_noticed():
    with pytest.raises(WordError, match="byte order"):
        parse_hv_guest_state((2).to_bytes(8, "big") + bytes(240), "little")


def test_a_cut_state_is_refused():
    with pytest.raises(WordError, match="needs 248 bytes, there are 232"):
        parse_hv_guest_state((2).to_bytes(8, "big") + bytes(224), "big")
