"""The hardware's side of a storage interrupt."""

import pytest

from nestscope.sim.hardware import access_fault
from nestscope.sim.tree import RadixTree

LEAF = 0xC000_0000_0000_0000
R, C = 0x100, 0x80
NOHPTE, PROT, STORE, SET_RC = 0x4000_0000, 0x0800_0000, 0x0200_0000, 0x0004_0000


def tree_with(flags: int) -> RadixTree:
    tree = RadixTree(16, 0)
    tree.change(0, 0, LEAF | flags)
    return tree


@pytest.mark.parametrize(
    ("flags", "kind", "dsisr"),
    [
        (4, "load", 0),
        (2, "load", 0),  # write implies read
        (1, "load", PROT),
        (2, "store", 0),
        (4, "store", PROT | STORE),
        (5, "store", PROT | STORE),
        (1, "fetch", 0),
        (6, "fetch", PROT),
    ],
)
def test_access_authority(flags: int, kind: str, dsisr: int) -> None:
    assert access_fault(tree_with(flags | R | C), 8, kind, rc_by_hardware=True) == dsisr


@pytest.mark.parametrize(
    ("kind", "dsisr"), [("load", NOHPTE), ("store", NOHPTE | STORE), ("fetch", NOHPTE)]
)
def test_no_leaf(kind: str, dsisr: int) -> None:
    assert access_fault(RadixTree(16, 0), 8, kind, rc_by_hardware=True) == dsisr


@pytest.mark.parametrize(
    ("before", "kind", "after", "dsisr"),
    [
        (0, "load", R, SET_RC),
        (0, "fetch", R, SET_RC),
        (0, "store", R | C, SET_RC | STORE),
        (R, "store", R | C, SET_RC | STORE),
        (C, "store", R | C, SET_RC | STORE),
        (R, "load", R, 0),
        (R | C, "store", R | C, 0),
    ],
)
def test_r_and_c_are_written_or_asked_for(before: int, kind: str, after: int, dsisr: int) -> None:
    writes, asks = tree_with(7 | before), tree_with(7 | before)
    assert access_fault(writes, 0, kind, rc_by_hardware=True) == 0
    assert writes.find(0)[0] == LEAF | 7 | after
    assert access_fault(asks, 0, kind, rc_by_hardware=False) == dsisr
    assert asks.find(0)[0] == LEAF | 7 | before


def test_a_refused_access_sets_nothing() -> None:
    tree = tree_with(4)
    access_fault(tree, 0, "store", rc_by_hardware=True)
    assert tree.find(0)[0] == LEAF | 4
