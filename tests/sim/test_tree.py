"""The host's radix trees."""

import pytest

from nestscope.sim.create import create_pte
from nestscope.sim.facts import HostFacts
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.kvm import Kvm
from nestscope.sim.steps import drain
from nestscope.sim.tree import RadixTree

LEAF = 0xC000_0000_0000_0000


def kvm() -> Kvm:
    return Kvm(HostFacts(), HostMemory(16))


@pytest.mark.parametrize("page_shift", [12, 16])
def test_a_base_leaf_covers_its_page_and_nothing_else(page_shift: int) -> None:
    tree = RadixTree(page_shift, 0)
    tree.change(0x100_0000, 0, LEAF)
    size = 1 << page_shift
    assert tree.find(0x100_0000) == (LEAF, 0)
    assert tree.find(0x100_0000 + size - 1) == (LEAF, 0)
    assert tree.find(0x100_0000 + size) == (0, 0)
    assert tree.find(0x100_0000 - 1) == (0, 0)


@pytest.mark.parametrize("shift", [21, 30])
def test_a_large_leaf_covers_its_page(shift: int) -> None:
    tree = RadixTree(16, 0)
    tree.change(1 << 35, shift, LEAF)
    assert tree.find((1 << 35) + (1 << shift) - 1) == (LEAF, shift)
    assert tree.find((1 << 35) + (1 << shift)) == (0, 0)


def test_address_bits_above_52_are_dropped() -> None:
    tree = RadixTree(16, 0)
    tree.change(0x10000, 0, LEAF)
    assert tree.find(1 << 60 | 0x10000) == (LEAF, 0)


def test_a_cleared_leaf_leaves_its_tables() -> None:
    tree = RadixTree(16, 0)
    drain(create_pte(kvm(), tree, LEAF, 0x100_0000, 16, 0))
    assert list(tree.leaves()) == [(0x100_0000, 16, LEAF)]
    tree.change(0x100_0000, 0, 0)
    assert list(tree.leaves()) == []
    assert tree.pte_tables == {8}


def test_clear_drops_leaves_and_tables() -> None:
    tree = RadixTree(16, 0)
    drain(create_pte(kvm(), tree, LEAF, 0x100_0000, 16, 0))
    tree.clear()
    assert list(tree.leaves()) == []
    assert not tree.pte_tables | tree.pmd_tables | tree.pud_tables


def test_leaves_are_listed_with_address_and_page_shift() -> None:
    tree = RadixTree(16, 0)
    tree.change(0x30000, 0, LEAF | 1)
    tree.change(0x20_0000, 21, LEAF | 2)
    assert sorted(tree.leaves()) == [(0x30000, 16, LEAF | 1), (0x20_0000, 21, LEAF | 2)]
