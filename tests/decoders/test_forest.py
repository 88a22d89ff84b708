"""Trees read together: the same leaves as each tree by itself, or None where one is odd."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.forest import forest_leaves
from nestscope.decoders.radix import walk
from nestscope.decoders.trees import MAX_TABLE_BYTES, odd_tree_leaves
from nestscope.decoders.words import pde, pte

from .memories import BulkSparseMemory, SparseMemory
from .strategies import words
from .trees_in_memory import P9_4K, P9_64K, Tree

kinds = pytest.mark.parametrize("kind", [SparseMemory, BulkSparseMemory])
ROOM = 1 << 36
"""Each tree has its tables in a range of its own."""


def together(memory, trees: list[Tree], room: int = MAX_TABLE_BYTES):
    return forest_leaves(memory, [tree.root.table for tree in trees], 13, 52, room)


def listed(leaves):
    assert leaves is not None
    return [tuple(leaf) for leaf in leaves]


def plant(memory, count: int, bits=P9_64K) -> list[Tree]:
    """Trees with one leaf each, at another address."""
    trees = [Tree(memory, bits, free=ROOM * (n + 1)) for n in range(count)]
    for n, tree in enumerate(trees):
        tree.map(n << 16, (n + 1) << 16)
    return trees


@kinds
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_trees_read_together_are_what_each_is_by_itself(kind, data):
    memory = kind()
    bits = data.draw(st.sampled_from((P9_64K, P9_4K)))
    trees = [Tree(memory, bits, free=ROOM * (n + 1)) for n in range(data.draw(st.integers(1, 4)))]
    for tree in trees:
        for address in data.draw(st.lists(st.integers(0, 2**52 - 1), max_size=6)):
            level = data.draw(st.sampled_from((1, 2, 3, 3)))
            if data.draw(st.booleans()):
                tree.map(address, data.draw(st.integers(0, 2**20)) << 30, level)
            else:
                tree.put(address, level, data.draw(words) | pte.PTE_V)
    for tree, leaves in zip(trees, together(memory, trees), strict=True):
        expected, problems = odd_tree_leaves(memory, tree.root.table, 13)
        if leaves is None:
            # Declined: never wrong. That it does not decline too much is told below.
            continue
        assert listed(leaves) == listed(expected)
        assert problems == []


@kinds
@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**26), min_size=0, max_size=8), min_size=1, max_size=5))
def test_sound_trees_are_never_declined(kind, trees_pages):
    memory = kind()
    trees = [Tree(memory, free=ROOM * (n + 1)) for n in range(len(trees_pages))]
    for tree, pages in zip(trees, trees_pages, strict=True):
        for page in pages:
            tree.map(page << 16, page << 16)
    for leaves, pages in zip(together(memory, trees), trees_pages, strict=True):
        assert [leaf.address for leaf in leaves or []] == sorted({page << 16 for page in pages})
        assert leaves is not None


@pytest.mark.parametrize("bits", [P9_64K, P9_4K])
def test_full_tables_are_complete_and_in_order(bits):
    memory = SparseMemory()
    first, second = (Tree(memory, bits, free=ROOM * n) for n in (1, 2))
    shift = first.shift_at(3)
    for page in range(3 << bits[3]):
        first.map(page << shift, page << shift, flags=page & 7)
    second.map(5 << shift, 0x7 << shift)
    whole, one = together(memory, [first, second])
    assert listed(whole) == [
        (page << shift, shift, pte.PTE_LEAF | page << shift | page & 7)
        for page in range(3 << bits[3])
    ]
    assert listed(one) == [(5 << shift, shift, pte.PTE_LEAF | 7 << shift | 7)]


def test_a_full_table_with_a_word_that_is_no_leaf_is_not_taken_for_full():
    memory = SparseMemory()
    tree = Tree(memory)
    for page in range(32):
        tree.map(page << 16, page << 16)
    tree.put(7 << 16, 3, pte.PTE_SW0 | pte.PTE_L | 0x1_0000 | 7)
    (leaves,) = together(memory, [tree])
    assert [leaf.address >> 16 for leaf in leaves] == [page for page in range(32) if page != 7]


def test_leaves_of_several_levels_are_in_order_in_each_tree():
    memory = SparseMemory()
    trees = [Tree(memory, free=ROOM * n) for n in (1, 2)]
    for tree in trees:
        tree.map(2 << 30, 3 << 30, 1)
        tree.map(1 << 30, 0x20_0000, 2)
        tree.map(0, 0x1_0000)
    for leaves in together(memory, trees):
        assert [(leaf.address >> 30, leaf.shift) for leaf in leaves] == [(0, 16), (1, 21), (2, 30)]


def unreadable(tree: Tree) -> None:
    tree.put(1 << 40, 0, pde.make_pde(1 << 45, 9))


def misaligned_page(tree: Tree) -> None:
    tree.map(1 << 40, 0x21_0000, 2)


def misaligned_table(tree: Tree) -> None:
    tree.put(1 << 40, 2, pde.make_pde(0x4000_0100, 9))


def impossible_size(tree: Tree) -> None:
    tree.put(1 << 40, 2, pde.make_pde(0x4000_0000, 31))


def table_below_pages(tree: Tree) -> None:
    tree.put(1 << 40, 3, pde.make_pde(0x4000_0000, 9))


def two_parents(tree: Tree) -> None:
    table = walk(tree.memory, tree.root, 1 << 16).steps[3].table
    tree.put(1 << 40, 2, pde.make_pde(table, 5))


def back_to_an_earlier_table(tree: Tree) -> None:
    table = walk(tree.memory, tree.root, 1 << 16).steps[1].table
    tree.put(1 << 40, 1, pde.make_pde(table, 9))


ODD = [
    unreadable,
    misaligned_page,
    misaligned_table,
    impossible_size,
    table_below_pages,
    two_parents,
    back_to_an_earlier_table,
]


@kinds
@pytest.mark.parametrize("spoil", ODD, ids=lambda spoil: spoil.__name__)
def test_an_odd_tree_is_declined_and_its_neighbours_are_not(kind, spoil):
    memory = kind()
    trees = plant(memory, 3)
    spoil(trees[1])
    before, odd, after = together(memory, trees)
    assert odd is None
    assert listed(before) == [(0, 16, pte.PTE_LEAF | 1 << 16 | 7)]
    assert listed(after) == [(2 << 16, 16, pte.PTE_LEAF | 3 << 16 | 7)]


def test_a_table_that_two_trees_share_is_left_to_be_read_for_each():
    memory = SparseMemory()
    trees = plant(memory, 3)
    table = walk(memory, trees[0].root, 0).steps[3].table
    trees[1].put(1 << 40, 2, pde.make_pde(table, 5))
    one, other, third = together(memory, trees)
    assert (one, other) == (None, None)
    assert len(listed(third)) == 1
    leaves, problems = odd_tree_leaves(memory, trees[1].root.table, 13)
    assert [leaf.address for leaf in leaves] == [1 << 16, 1 << 40]
    assert problems == []


def test_one_root_of_two_trees_is_left_to_be_read_for_each():
    memory = SparseMemory()
    (tree,) = plant(memory, 1)
    assert together(memory, [tree, tree]) == [None, None]


def test_a_tree_with_too_many_tables_is_declined():
    memory = SparseMemory()
    small, large = plant(memory, 2)
    for page in range(40):
        large.map(page << 21, page << 16)
    leaves, declined = together(memory, [small, large], room=(8 << 13) + 4 * (8 << 9))
    assert len(listed(leaves)) == 1
    assert declined is None


def test_no_trees_have_no_leaves():
    assert together(SparseMemory(), []) == []
