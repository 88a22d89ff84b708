import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders import trees
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.radix import ISA, RadixRoot, walk
from nestscope.decoders.trees import odd_tree_leaves, tree_leaves
from nestscope.decoders.words import pde, pte

from .memories import BulkSparseMemory, SparseMemory
from .strategies import words
from .trees_in_memory import P9_4K, P9_64K, Tree, geometries

kinds = pytest.mark.parametrize("kind", [SparseMemory, BulkSparseMemory])


def leaves_of(there: Tree):
    return tree_leaves(there.memory, there.root.table, there.root.bits, there.address_bits)


def one_by_one(memory, root: RadixRoot) -> list[tuple[int, int, int]]:
    """All leaves by Construct alone, entry by entry: the specification of the bulk path."""
    found: list[tuple[int, int, int]] = []

    def visit(table: int, bits: int, prefix: int, span: int) -> None:
        shift = span - bits
        data = memory.read(table, 8 << bits)
        for index in range(1 << bits):
            raw = data[8 * index : 8 * index + 8]
            if not any(raw):
                continue
            address = prefix + (index << shift)
            entry = pde.PDE.parse(raw)
            if entry.v and entry.l:
                found.append((address, shift, int.from_bytes(pte.PTE.build(pte.PTE.parse(raw)))))
            elif entry.v:
                visit(entry.nlb * 256, entry.nls, address, shift)

    visit(root.table, root.bits, 0, root.address_bits)
    return sorted(found)


# What is found.


@kinds
@settings(max_examples=40)
@given(geometry=geometries(), data=st.data())
def test_both_paths_say_what_construct_says_of_every_word(kind, geometry, data):
    address_bits, bits = geometry
    there = Tree(kind(), bits, address_bits)
    last = len(bits) - 1
    below_page = (1 << there.shift_at(last)) - 0x1000
    for address in data.draw(st.lists(st.integers(0, (1 << address_bits) - 1), max_size=8)):
        word = data.draw(words) & ~below_page
        there.put(address, last, data.draw(st.sampled_from((word | pte.PTE_LEAF, word % 2**63))))
    expected = one_by_one(there.memory, there.root)
    for read in (tree_leaves, odd_tree_leaves):
        leaves, problems = read(there.memory, there.root.table, bits[0], address_bits)
        assert [tuple(leaf) for leaf in leaves] == expected
        assert problems == []


@kinds
@given(st.data())
def test_every_leaf_is_what_the_walker_finds(kind, data):
    there = Tree(kind(), data.draw(st.sampled_from((P9_64K, P9_4K))))
    level = st.sampled_from((1, 2, 3))
    for top in data.draw(st.lists(st.integers(0, 2**22 - 1), max_size=6, unique=True)):
        # One leaf under each 1 GiB, so a huge one never hides another.
        at = data.draw(level)
        shift = there.shift_at(at)
        below = data.draw(st.integers(0, (1 << 30 >> shift) - 1)) << shift
        there.map(top << 30 | below, data.draw(st.integers(0, 2**26 - 1)) << 30, at)
    leaves, problems = leaves_of(there)
    assert problems == []
    for leaf in leaves:
        found = walk(there.memory, there.root, leaf.address).leaf
        assert found is not None
        assert (found.pte, found.shift) == (leaf.pte, leaf.shift)
    addresses = [leaf.address for leaf in leaves]
    assert addresses == sorted(set(addresses))


@kinds
def test_5_and_9_bit_tables_may_stand_side_by_side(kind):
    there = Tree(kind(), P9_64K)
    there.map(0x1_0000, 0x5_0000)
    there.put(0x20_1000, 3, pte.PTE_LEAF | 0x7_7000 | 7, P9_4K)
    leaves, problems = leaves_of(there)
    assert [(leaf.address, leaf.shift) for leaf in leaves] == [(0x1_0000, 16), (0x20_1000, 12)]
    assert problems == []


def test_all_13_bits_of_the_root_are_read():
    # Known trap of other tools: 0x1FF as the index mask of every level.
    there = Tree(SparseMemory())
    there.map(8191 << 39, 0x2_0000)
    for read in (tree_leaves, odd_tree_leaves):
        leaves, _ = read(there.memory, there.root.table, 13)
        assert [leaf.address for leaf in leaves] == [8191 << 39]


def test_words_are_big_endian_whatever_the_kernel_is():
    there = Tree(SparseMemory())
    there.memory.words[there.put(0, 3, 0)] = bytes.fromhex("c000000002d50387")
    for read in (tree_leaves, odd_tree_leaves):
        leaves, _ = read(there.memory, there.root.table, 13)
        assert [leaf.pte for leaf in leaves] == [0xC000_0000_02D5_0387]


def test_a_word_that_linux_calls_present_but_hardware_does_not_is_no_leaf():
    there = Tree(SparseMemory())
    there.put(0, 3, pte.PTE_SW0 | pte.PTE_L | 0x1_0000 | 7)
    for read in (tree_leaves, odd_tree_leaves):
        leaves, problems = read(there.memory, there.root.table, 13)
        assert len(leaves) == 0
        assert problems == []


def test_a_full_tree_is_complete_and_in_order():
    there = Tree(SparseMemory(), (1, 1, 3), 31)
    shift = there.shift_at(2)
    for page in range(32):
        there.map(page << shift, page << shift)
    leaves, problems = odd_tree_leaves(there.memory, there.root.table, 1, 31)
    assert [leaf.address for leaf in leaves] == [page << shift for page in range(32)]
    assert problems == []


def test_huge_leaves_take_their_place_among_small_ones():
    there = Tree(SparseMemory())
    there.map(2 << 30, 3 << 30, 1)
    there.map(1 << 30, 0x20_0000, 2)
    there.map(0, 0x1_0000)
    leaves, _ = odd_tree_leaves(there.memory, there.root.table, 13)
    assert [(leaf.address >> 30, leaf.shift) for leaf in leaves] == [(0, 16), (1, 21), (2, 30)]


def test_leaves_are_in_order_where_tables_of_one_size_come_from_tables_of_several():
    there = Tree(SparseMemory(), (13, 9, 10, 8))
    there.map(0, 0x1000)
    there.put(1 << 39, 3, pte.PTE_LEAF | 0x2000, (13, 10, 9, 8))
    there.map(2 << 39, 0x3000)
    leaves, problems = odd_tree_leaves(there.memory, there.root.table, 13)
    assert problems == []
    found = [(leaf.address >> 39, leaf.shift, leaf.pte & 0xF000) for leaf in leaves]
    assert found == [(0, 12, 0x1000), (1, 12, 0x2000), (2, 12, 0x3000)]


# What is wrong: said with its address, and the rest is still there.


@kinds
def test_a_table_that_cannot_be_read_is_named_and_the_rest_is_there(kind):
    there = Tree(kind())
    there.map(0, 0x1_0000)
    there.put(0x20_0000, 2, pde.make_pde(1 << 45, 5))
    there.map(0x40_0000, 0x3_0000)
    leaves, problems = leaves_of(there)
    assert [leaf.address for leaf in leaves] == [0, 0x40_0000]
    assert [(problem.path, problem.address) for problem in problems] == [("leaves", 1 << 45)]
    assert "cannot be read" in problems[0].message


def test_an_unreadable_root_is_named():
    leaves, problems = tree_leaves(SparseMemory(), 0x1_0000, 13, path="vms[0].host_leaves")
    assert len(leaves) == 0
    assert [(p.path, p.address) for p in problems] == [("vms[0].host_leaves", 0x1_0000)]


@kinds
def test_a_table_that_leads_back_to_itself_is_read_once(kind):
    there = Tree(kind())
    there.map(0, 0x1_0000)
    table = walk(there.memory, there.root, 0).steps[1].table
    there.memory.put(table + 8, pde.make_pde(table, 9))
    leaves, problems = leaves_of(there)
    assert [leaf.address for leaf in leaves] == [0]
    assert [(p.address, "second time" in p.message) for p in problems] == [(table, True)]


@kinds
def test_a_table_with_two_parents_is_read_once(kind):
    there = Tree(kind())
    there.map(0, 0x1_0000)
    table = walk(there.memory, there.root, 0).steps[3].table
    there.put(0x20_0000, 2, pde.make_pde(table, 5))
    leaves, problems = leaves_of(there)
    assert [leaf.address for leaf in leaves] == [0]
    assert [(p.address, "second time" in p.message) for p in problems] == [(table, True)]


@pytest.mark.parametrize(
    ("word", "what"),
    [
        (pde.make_pde(0x4000_0000, 0), "impossible size"),
        (pde.make_pde(0x4000_0000, 31), "impossible size"),
        (pde.make_pde(0x4000_0100, 9), "not aligned"),
    ],
)
def test_a_pde_that_cannot_be_is_named_by_its_own_address(word, what):
    there = Tree(SparseMemory())
    there.map(0x20_0000, 0x1_0000)
    place = there.put(0, 2, word)
    leaves, problems = leaves_of(there)
    assert [leaf.address for leaf in leaves] == [0x20_0000]
    assert [problem.address for problem in problems] == [place]
    assert what in problems[0].message


def test_a_misaligned_huge_page_is_kept_and_named():
    there = Tree(SparseMemory())
    word = there.map(0, 0x21_0000, 2)
    place = there.entry_address(0, 2)
    leaves, problems = leaves_of(there)
    assert [tuple(leaf) for leaf in leaves] == [(0, 21, word)]
    assert [(p.address, p.message) for p in problems] == [
        (place, "the page is not aligned to its 2^21 bytes")
    ]


@pytest.mark.parametrize("bits", [0, 41, 63])
def test_an_impossible_root_is_a_problem(bits):
    leaves, problems = tree_leaves(SparseMemory(), 0, bits)
    assert len(leaves) == 0
    assert "impossible size" in problems[0].message


def test_the_budget_of_table_bytes_ends_a_large_tree():
    there = Tree(SparseMemory())
    for page in range(4):
        there.map(page << 21, page << 16)
    room = (8 << 13) + 2 * (8 << 9) + 2 * (8 << 5)
    leaves, problems = tree_leaves(there.memory, there.root.table, 13, max_table_bytes=room)
    assert len(leaves) == 2
    assert [p.message for p in problems] == ["the tree is too large: 2 tables are not read"]


def test_many_problems_are_counted_and_not_listed():
    there = Tree(SparseMemory())
    for entry in range(8192):
        there.memory.put(there.root.table + 8 * entry, pde.make_pde((1 << 45) + (entry << 12), 9))
    _, problems = leaves_of(there)
    assert len(problems) == trees.MAX_PROBLEMS + 1
    assert problems[-1].message == f"{8192 - trees.MAX_PROBLEMS} further problems are not listed"


class Garbage:
    """Repeats a few words everywhere below `end`."""

    def __init__(self, pattern: list[int], end: int) -> None:
        self.pattern = b"".join(word.to_bytes(8, "big") for word in pattern)
        self.end = end

    def read(self, address: int, length: int) -> bytes:
        if address + length > self.end:
            raise UnreadableMemoryError(address, length, "the end")
        return (self.pattern * (length // len(self.pattern) + 1))[:length]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(words, min_size=1, max_size=6),
    st.integers(0, 2**20).map(lambda n: n << 8),
    st.integers(0, 31),
    st.integers(31, 62),
)
def test_garbage_never_raises_and_ends(pattern, root, bits, address_bits):
    memory = Garbage(pattern, 1 << 30)
    leaves, problems = tree_leaves(memory, root, bits, address_bits, max_table_bytes=1 << 20)
    assert len(leaves) <= (1 << 20) // 8
    assert len(problems) <= trees.MAX_PROBLEMS + 1
    for leaf in list(leaves)[:50]:
        assert pte.is_leaf(leaf.pte)


def test_the_walker_of_any_geometry_agrees_with_the_leaves():
    there = Tree(SparseMemory(), (4, 3, 6), 40)
    there.map(0x12_3456_0000, 0)
    (leaf,) = leaves_of(there)[0]
    found = walk(there.memory, there.root, 0x12_3456_0000, ISA).leaf
    assert found is not None
    assert (leaf.shift, leaf.pte) == (found.shift, found.pte)
    assert leaf.address == 0x12_3456_0000 >> 27 << 27
