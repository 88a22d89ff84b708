"""The kernel's debugfs listing of radix trees, parsed."""

from nestscope.plugin.qemu.listing import HOST_TREE, parse_listing

TEXT = """pgdir: c000000005a90000
 10000: c000000002d50387 16
 200000: c000000040000387 21
Nested LPID 3: pgdir: c000000005b00000
 0: c000000002a10307 16
"""


def test_each_tree_has_its_leaves() -> None:
    trees = parse_listing(TEXT)
    assert list(trees) == [HOST_TREE, 3]
    assert list(trees[HOST_TREE]) == [
        (0x10000, 16, 0xC000000002D50387),
        (0x200000, 21, 0xC000000040000387),
    ]
    assert list(trees[3]) == [(0, 16, 0xC000000002A10307)]


def test_an_empty_tree_is_there_without_leaves() -> None:
    trees = parse_listing("pgdir: c000000005a90000\n")
    assert len(trees[HOST_TREE]) == 0
