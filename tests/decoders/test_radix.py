import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders import radix_faults as faults
from nestscope.decoders.radix import ISA, LINUX, QEMU, RadixRoot, walk
from nestscope.decoders.words import pate, pde, pte

from .memories import SparseMemory
from .strategies import words
from .trees_in_memory import P9_4K, P9_64K, Tree, geometries

profiles = st.sampled_from((LINUX, QEMU, ISA))


def tree(bits=P9_64K) -> Tree:
    return Tree(SparseMemory(), bits)


# What a good walk says.


@given(geometries(), st.data())
def test_any_geometry_is_walked_to_the_mapped_page(geometry, data):
    address_bits, bits = geometry
    there = Tree(SparseMemory(), bits, address_bits)
    shift = there.shift_at(len(bits) - 1)
    address = data.draw(st.integers(0, (1 << address_bits) - 1))
    real = data.draw(st.integers(0, (1 << 56 >> shift) - 1)) << shift
    word = there.map(address, real)
    done = walk(there.memory, there.root, address, ISA)
    assert done.fault is None
    assert done.leaf is not None
    assert (done.leaf.pte, done.leaf.shift) == (word, shift)
    assert done.leaf.real_address == real + address % (1 << shift)
    assert [step.bits for step in done.steps] == list(bits)
    assert [step.kind for step in done.steps] == ["table"] * (len(bits) - 1) + ["leaf"]
    places = [there.entry_address(address, level) for level in range(len(bits))]
    assert [step.entry_address for step in done.steps] == places


@pytest.mark.parametrize(("bits", "shift"), [(P9_64K, 16), (P9_4K, 12)])
def test_both_last_levels_of_linux(bits, shift):
    there = tree(bits)
    there.map(0x12_3456_0000, 0xABC_0000)
    done = walk(there.memory, there.root, 0x12_3456_0234)
    assert done.leaf is not None
    assert done.leaf.shift == shift
    assert done.leaf.real_address == 0xABC_0234


def test_a_root_index_needs_13_bits_and_not_9():
    # Known trap of other tools: 0x1FF as the index mask of every level.
    there = tree()
    high = 0x1234 << 39
    there.map(high, 0x2_0000)
    there.map((0x1234 & 0x1FF) << 39, 0x3_0000)
    done = walk(there.memory, there.root, high)
    assert done.steps[0].index == 0x1234
    assert done.leaf is not None
    assert done.leaf.real_address == 0x2_0000


def test_a_last_index_of_5_bits_does_not_take_in_bits_of_the_level_above():
    there = tree()
    there.map(0x3F_0000, 0x4_0000)
    done = walk(there.memory, there.root, 0x3F_0000)
    assert [step.index for step in done.steps] == [0, 0, 1, 31]


def test_words_are_big_endian_whatever_the_kernel_is():
    # Known trap of other tools: page table words read in the kernel's byte order.
    there = tree()
    place = there.put(0, 3, 0)
    there.memory.words[place] = bytes.fromhex("c000000002d50387")
    done = walk(there.memory, there.root, 0x10)
    assert done.leaf is not None
    assert done.leaf.real_address == 0x2D5_0010


@pytest.mark.parametrize(("level", "shift"), [(1, 30), (2, 21)])
def test_huge_pages_add_the_offset_below_their_size(level, shift):
    there = tree()
    there.map(0, 5 << shift, level)
    done = walk(there.memory, there.root, (1 << shift) - 0x123)
    assert done.leaf is not None
    assert done.leaf.shift == shift
    assert done.leaf.real_address == (6 << shift) - 0x123


def test_one_tree_may_mix_5_and_9_bit_last_levels():
    # NLS is a field of each PDE, so 64K and 4K pages may live in one tree.
    there = tree(P9_64K)
    there.map(0, 0x10_0000)
    there.put(0x20_0000, 3, pte.PTE_LEAF | 0x77_7000 | 4, P9_4K)
    first = walk(there.memory, there.root, 0).leaf
    second = walk(there.memory, there.root, 0x20_0000).leaf
    assert first is not None
    assert second is not None
    assert (first.shift, second.shift) == (16, 12)


def test_the_root_may_be_given_as_a_doubleword():
    there = tree()
    there.map(0x5_0000, 0x6_0000)
    dw0 = pate.make_dw0(there.root.table, 13)
    assert walk(there.memory, dw0, 0x5_0000) == walk(there.memory, there.root, 0x5_0000)


def test_address_bits_above_the_tree_are_ignored():
    there = tree()
    there.map(0x5_0000, 0x6_0000)
    done = walk(there.memory, there.root, 0x5_0000 | 0xFFF << 52)
    assert done.leaf is not None
    assert done.leaf.real_address == 0x6_0000


@given(st.integers(0, 15), st.booleans(), st.booleans())
def test_permissions_and_r_c_are_those_of_the_leaf(eaa, referenced, changed):
    there = tree()
    flags = eaa | (pte.PTE_R if referenced else 0) | (pte.PTE_C if changed else 0)
    there.map(0, 0x1_0000, flags=flags)
    leaf = walk(there.memory, there.root, 0).leaf
    assert leaf is not None
    assert leaf.permissions.privileged == bool(eaa & 8)
    assert leaf.permissions.read == bool(eaa & 4)
    assert leaf.permissions.write == bool(eaa & 2)
    assert leaf.permissions.execute == bool(eaa & 1)
    assert (leaf.referenced, leaf.changed) == (referenced, changed)
    architected = walk(there.memory, there.root, 0, ISA).leaf
    assert architected is not None
    assert architected.permissions.read == bool(eaa & 6)


# Each way to fail, with Linux's errno.


def test_a_tree_size_other_than_52_bits_is_unsupported():
    there = tree()
    done = walk(there.memory, replace(there.root, address_bits=51), 0)
    assert done.fault == faults.UnsupportedTreeSize(51)
    assert done.fault.errno == errno.EINVAL
    assert done.steps == ()


@pytest.mark.parametrize("bits", [0, 5, 9, 12, 14, 31])
def test_a_root_of_another_size_is_refused(bits):
    done = walk(SparseMemory(), RadixRoot(0, bits), 0)
    assert done.fault == faults.BadLevelSize(0, bits)
    assert done.fault.errno == errno.EINVAL


@pytest.mark.parametrize(("level", "good"), [(1, (9,)), (2, (9,)), (3, (5, 9))])
def test_a_lower_table_of_another_size_is_refused(level, good):
    for bits in range(32):
        there = tree()
        table = 1 << 40
        there.memory.table(table, 8 << 9)
        there.put(0, level - 1, pde.make_pde(table, bits))
        fault = walk(there.memory, there.root, 0).fault
        if bits in good:
            assert isinstance(fault, faults.NotPresent)
        else:
            assert fault == faults.BadLevelSize(level, bits)


def test_a_misaligned_table_is_refused_by_linux_and_masked_by_qemu():
    there = tree()
    table = there.allocate(9)
    there.memory.put(table, pte.PTE_LEAF | 7)
    there.put(0, 0, pde.make_pde(table + 0x100, 9))
    done = walk(there.memory, there.root, 0)
    assert done.fault == faults.MisalignedTable(1, table + 0x100, 9)
    assert done.fault.errno == errno.EINVAL
    tolerant = walk(there.memory, there.root, 0, QEMU)
    assert tolerant.leaf is not None
    assert tolerant.steps[1].table == table


def test_a_table_outside_of_memory_gives_its_address():
    there = tree()
    there.put(0, 1, pde.make_pde(1 << 50, 9))
    done = walk(there.memory, there.root, 0x20_0000)
    assert isinstance(done.fault, faults.UnreadableTable)
    assert (done.fault.level, done.fault.address) == (2, (1 << 50) + 8)
    assert done.fault.errno == errno.EFAULT
    assert len(done.steps) == 2


@pytest.mark.parametrize("word", [0, pte.PTE_L | 7, pte.PTE_SW0 | pte.PTE_L | 0x1_0000 | 7])
def test_v_clear_is_not_present_even_where_linux_says_pte_present(word):
    there = tree()
    place = there.put(0, 3, word)
    done = walk(there.memory, there.root, 0)
    assert done.fault == faults.NotPresent(3, place, word)
    assert done.fault.errno == errno.ENOENT
    assert done.steps[-1].kind == "not present"


def test_a_512g_leaf_is_refused_by_linux_only():
    there = tree()
    there.map(0, 1 << 39, 0)
    done = walk(there.memory, there.root, 5)
    assert done.fault == faults.LeafAtRoot(39)
    assert done.fault.errno == errno.EINVAL
    for profile in (QEMU, ISA):
        leaf = walk(there.memory, there.root, 5, profile).leaf
        assert leaf is not None
        assert leaf.real_address == (1 << 39) + 5


def test_a_misaligned_huge_page_is_refused_by_linux_and_masked_by_qemu():
    there = tree()
    there.map(0, 0x20_0000 + 0x1_0000, 2)
    done = walk(there.memory, there.root, 0x5)
    assert done.fault == faults.MisalignedPage(0x21_0000, 21)
    assert done.fault.errno == errno.EINVAL
    tolerant = walk(there.memory, there.root, 0x5, QEMU).leaf
    assert tolerant is not None
    assert tolerant.real_address == 0x20_0005


@pytest.mark.parametrize("profile", [LINUX, QEMU])
def test_a_table_in_the_last_level_ends_without_a_leaf(profile):
    there = tree()
    there.put(0, 3, pde.make_pde(there.allocate(9), 9))
    done = walk(there.memory, there.root, 0, profile)
    assert done.fault == faults.NoLeaf(4)
    assert done.fault.errno == errno.EINVAL
    assert len(done.steps) == 4


# Which check comes first, as in the kernel's function.


def test_linux_checks_the_size_before_the_alignment():
    assert walk(SparseMemory(), RadixRoot(0x100, 12), 0).fault == faults.BadLevelSize(0, 12)


def test_linux_checks_the_alignment_before_it_reads():
    assert isinstance(walk(SparseMemory(), RadixRoot(0x100, 13), 0).fault, faults.MisalignedTable)


def test_linux_checks_the_level_before_the_alignment_of_the_page():
    there = tree()
    there.map(0, (1 << 39) + 0x1000, 0)
    assert walk(there.memory, there.root, 0).fault == faults.LeafAtRoot(39)


# Hostile trees.


@given(profiles, st.integers(1, 31), st.integers(31, 62), words)
def test_a_table_that_leads_to_itself_ends(profile, bits, address_bits, address):
    class Mirror:
        """Every doubleword of it is a PDE that leads back to address 0."""

        def read(self, _address, length):
            return pde.make_pde(0, bits).to_bytes(8, "big")[:length]

    done = walk(Mirror(), RadixRoot(0, bits, address_bits), address, profile)
    assert done.leaf is None
    assert done.fault is not None
    assert len(done.steps) <= 62


@given(profiles, words, words, st.lists(words, min_size=1, max_size=8))
def test_garbage_gives_a_leaf_or_a_reason_and_never_an_exception(profile, dw0, address, garbage):
    class Garbage:
        def read(self, at, length):
            return garbage[at // 8 % len(garbage)].to_bytes(8, "big")[:length]

    done = walk(Garbage(), dw0, address, profile)
    assert (done.leaf is None) != (done.fault is None)
    if done.fault is not None:
        assert "\n" not in str(done.fault)
        assert len(str(done.fault)) > 10
