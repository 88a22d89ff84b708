"""Layouts from text: offsets as the ABI gives them, and mistakes named."""

import pytest

from nestscope.decoders.kernel.types import Types, UnknownTypeError
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.layouts import LayoutText
from nestscope.sim.image.profiles import profile_types

TEXT = """
struct inner
    u8 kind
    u16 number

struct outer
    u8 first
    inner pair[3]
    s32 count
    pointer next
    u8 last
    inner rest[0]
"""


def test_members_are_aligned_and_structs_padded() -> None:
    types = Types([LayoutText(TEXT)])
    assert types.struct("inner").size == 4
    assert types.struct("outer").size == 40
    offsets = {"pair[1].number": 8, "count": 16, "next": 24, "last": 32, "rest[2].kind": 42}
    assert {path: types.offset("outer", path) for path in offsets} == offsets
    assert types.member("outer", "count").signed
    assert not types.member("outer", "first").signed
    with pytest.raises(UnknownTypeError):
        types.member("outer", "pair[3]")


def test_the_newest_profile_has_the_offsets_of_a_real_kernel() -> None:
    # As BTF of Debian's 6.12 has them; struct kvm itself differs between configurations.
    types = profile_types("6.12-like")
    sizes = {"kvm_memory_slot": 224, "kvm_memslots": 1072, "kvm_nested_guest": 4448, "xa_node": 576}
    assert {name: types.struct(name).size for name in sizes} == sizes
    assert types.offset("kvm_memory_slot", "gfn_node") == 128
    assert types.offset("kvm_memslots", "node_idx") == 1064
    assert types.offset("kvm_nested_guest", "refcnt") == 40


@pytest.mark.parametrize(
    "text",
    [
        "struct a\n    u24 x",
        "struct a\n    u8",
        "struct a\n    u8 x\n    u8 x",
        "struct a\n    later x\nstruct later\n    u8 y",
        "    u8 x",
    ],
)
def test_a_line_that_says_nothing_is_named(text: str) -> None:
    with pytest.raises(ImageError, match=r"u24 x|'u8'|u8 x|later x"):
        LayoutText(text)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ImageError, match=r"6\.1-like"):
        profile_types("4.20-like")
