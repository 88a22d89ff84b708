"""BTF: struct layouts as the compiler made them, from bytes in either byte order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.btf import MAX_BYTES, Btf, BtfError
from nestscope.decoders.kernel.types import Types, UnknownTypeError
from tests.decoders.kernel import btf_bytes
from tests.decoders.kernel.btf_bytes import BtfBytes


@pytest.mark.parametrize("order", ["<", ">"])
def test_members_have_offsets_sizes_and_kinds(order: str) -> None:
    btf = BtfBytes(order)
    u32, s16 = btf.number("unsigned int", 4), btf.number("short", 2, signed=True)
    btf.struct("slot", 24, ("npages", u32, 0), ("id", s16, 32), ("rmap", btf.pointer(), 128))
    found = Btf(btf.bytes(), "test").find("slot")
    assert found is not None
    assert found.size == 24
    shape = [(m.name, m.offset, m.size, m.kind, m.signed) for m in found.members.values()]
    assert shape == [
        ("npages", 0, 4, "int", False),
        ("id", 4, 2, "int", True),
        ("rmap", 16, 8, "pointer", False),
    ]


def test_members_of_anonymous_structs_and_unions_belong_to_the_outer_one() -> None:
    btf = BtfBytes()
    u32, u16 = btf.number("u32", 4), btf.number("u16", 2)
    inner = btf.struct("", 4, ("locked", u16, 0), ("reserved", u16, 16))
    union = btf.struct("", 4, ("val", u32, 0), ("", inner, 0), kind=btf_bytes.UNION)
    btf.struct("qspinlock", 8, ("before", u32, 0), ("", union, 32))
    types = Types([Btf(btf.bytes(), "test")])
    assert types.offset("qspinlock", "val") == 4
    assert types.offset("qspinlock", "locked") == 4
    assert types.offset("qspinlock", "reserved") == 6


def test_a_path_leads_through_structs_typedefs_and_arrays() -> None:
    btf = BtfBytes()
    pointer = btf.pointer()
    memory = btf.struct("module_memory", 16, ("base", pointer, 0), ("size", btf.number("u", 4), 64))
    const = btf.add(btf_bytes.CONST, "", btf.typedef("mem_t", memory))
    btf.struct("module", 64, ("state", pointer, 0), ("mem", btf.array(const, 3), 128))
    types = Types([Btf(btf.bytes(), "test")])
    assert types.offset("module", "mem[2].size") == 16 + 2 * 16 + 8
    assert types.member("module", "mem").dims == (3,)
    assert types.member("module", "mem").size == 48
    assert types.first("module", "core_layout.base", "mem[0].base") == "mem[0].base"
    for path in ("mem[3].base", "mem.base", "mem[0][0]", "state.base", "", "mem[", "absent"):
        assert not types.has("module", path), path
    with pytest.raises(UnknownTypeError, match="no member core_layout"):
        types.offset("module", "core_layout")
    with pytest.raises(UnknownTypeError, match="--modules"):
        types.struct("absent")


def test_a_multidimensional_array() -> None:
    btf = BtfBytes()
    u64 = btf.number("u64", 8)
    btf.struct("s", 80, ("a", btf.array(btf.array(u64, 3), 3), 64))
    types = Types([Btf(btf.bytes(), "test")])
    assert types.member("s", "a").dims == (3, 3)
    assert types.offset("s", "a[1][2]") == 8 + (1 * 3 + 2) * 8
    assert types.member("s", "a[1]").size == 24


def test_bitfields_old_and_new() -> None:
    btf = BtfBytes()
    u32 = btf.number("u32", 4)
    btf.struct("new", 4, ("flag", u32, 3 << 24 | 13), ("whole", u32, 32), kind_flag=True)
    btf.struct("old", 4, ("flag", btf.number("u32", 4, bits=3, offset=9), 4))
    types = Types([Btf(btf.bytes(), "test")])
    for name in ("new", "old"):
        member = types.member(name, "flag")
        assert (member.offset, member.bits) == (1, (5, 3))
    assert types.member("new", "whole").bits is None


def test_a_typedef_of_an_anonymous_struct_has_the_typedefs_name() -> None:
    btf = BtfBytes()
    btf.typedef("arch_spinlock_t", btf.struct("", 4, ("slock", btf.number("u32", 4), 0)))
    found = Btf(btf.bytes(), "test").find("arch_spinlock_t")
    assert found is not None
    assert found.members["slock"].size == 4


def test_every_kind_has_its_length() -> None:
    btf = BtfBytes()
    u32 = btf.number("u32", 4)
    btf.add(btf_bytes.ENUM, "e", 4, *(btf.string("a"), 0, btf.string("b"), 1), vlen=2)
    btf.add(btf_bytes.ENUM64, "f", 8, *(btf.string("a"), 0, 1), vlen=1)
    proto = btf.add(btf_bytes.FUNC_PROTO, "", u32, *(btf.string("x"), u32), vlen=1)
    # The vlen of a FUNC is its linkage, not a number of elements.
    btf.add(btf_bytes.FUNC, "f", proto, vlen=1)
    variable = btf.add(btf_bytes.VAR, "v", u32, 1)
    btf.add(btf_bytes.DATASEC, ".data", 4, *(variable, 0, 4), vlen=1)
    btf.add(btf_bytes.FLOAT, "double", 8)
    btf.add(btf_bytes.DECL_TAG, "tag", variable, 0)
    btf.add(btf_bytes.TYPE_TAG, "rcu", u32)
    btf.struct("last", 4, ("x", u32, 0))
    found = Btf(btf.bytes(), "test").find("last")
    assert found is not None
    assert found.size == 4


def test_a_modules_types_stand_on_those_of_vmlinux() -> None:
    base = BtfBytes()
    u64 = base.number("u64", 8)
    outer = base.struct("kvm_arch", 8, ("lpid", u64, 0))
    split = base.split()
    split.offsets = dict(base.offsets)  # names that vmlinux has are not repeated
    split.struct("kvm_nested_guest", 16, ("lpid", u64, 0), ("arch", outer, 64))
    vmlinux = Btf(base.bytes(), "vmlinux")
    module = Btf(split.bytes(), "kvm_hv", vmlinux)
    types = Types([module, vmlinux])
    assert types.offset("kvm_nested_guest", "arch.lpid") == 8
    assert types.struct("kvm_arch").size == 8
    assert vmlinux.find("kvm_nested_guest") is None


def test_damage_has_a_name() -> None:
    btf = BtfBytes()
    btf.struct("s", 8, ("x", btf.number("u64", 8), 0))
    good = btf.bytes()
    with pytest.raises(BtfError, match="magic number is 1234"):
        Btf(b"\x12\x34" + good[2:], "test")
    with pytest.raises(BtfError, match="cut short"):
        Btf(good[:-1], "test")
    with pytest.raises(BtfError, match="cannot be right"):
        Btf(good[:10], "test")
    with pytest.raises(BtfError, match="cannot be right"):
        Btf(bytes(MAX_BYTES + 1), "test")
    btf.add(31)
    with pytest.raises(BtfError, match="kind 31"):
        Btf(btf.bytes(), "test")


def test_types_without_an_end_are_refused() -> None:
    btf = BtfBytes()
    btf.typedef("a", 2)
    btf.typedef("b", 1)
    btf.struct("loop", 8, ("x", 1, 0))
    btf.struct("", 8, ("", 4, 0))
    btf.struct("inside_itself", 8, ("", 4, 0))
    btf.add(btf_bytes.ARRAY, "", 0, 6, 0, 2)
    btf.struct("array_of_itself", 8, ("x", 6, 0))
    btf.struct("wild", 8, ("x", 99, 0))
    found = Btf(btf.bytes(), "test")
    for name in ("loop", "inside_itself", "array_of_itself", "wild"):
        with pytest.raises(BtfError):
            found.find(name)


def test_anonymous_structs_that_double_at_each_level_are_refused() -> None:
    btf = BtfBytes()
    inner = btf.struct("", 8, ("x", btf.number("u64", 8), 0))
    for _ in range(30):
        inner = btf.struct("", 8, ("", inner, 0), ("", inner, 0))
    btf.struct("bomb", 8, ("", inner, 0))
    with pytest.raises(BtfError, match="too many"):
        Btf(btf.bytes(), "test").find("bomb")


@given(st.data())
def test_damaged_bytes_never_surprise(data: st.DataObject) -> None:
    btf = BtfBytes(data.draw(st.sampled_from("<>")))
    u64 = btf.number("u64", 8)
    inner = btf.struct("", 8, ("a", u64, 0), ("b", btf.pointer(), 0), kind=btf_bytes.UNION)
    btf.struct("s", 32, ("x", btf.array(u64, 2), 0), ("", inner, 128), ("y", inner, 192))
    bad = bytearray(btf.bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    try:
        types = Types([Btf(bytes(bad), "test")])
        types.member("s", "y.a")
    except NestscopeError:
        pass
