"""Which guest trees Linux's walker accepts, and the error for each other one."""

import pytest

from nestscope.sim.steps import drain
from nestscope.sim.walker import GuestPte, walk_guest_tree

from .world import World

EINVAL, ENOENT, EFAULT = -22, -2, -14
ROOT, PUD, PMD, PTE = 0x90_0000, 0xA0_0000, 0xA0_1000, 0xA0_2000
PATE = 0x4000_0000_0000_00AD
PDE, LEAF = 1 << 63, 3 << 62
N = 0x2_0000


def walk(words: dict[int, int], root: int = PATE | ROOT, n_gpa: int = N) -> GuestPte:
    world = World()
    kvm = world.model.kvm
    for at, word in words.items():
        drain(kvm.memory.write(kvm.memslots[0].userspace_addr + at, word.to_bytes(8, "big")))
    return walk_guest_tree(kvm, n_gpa, root)


def tree(leaf: int = LEAF | 0x91_0000 | 0x187, bits: int = 5) -> dict[int, int]:
    index = N >> (21 - bits)
    return {ROOT: PDE | PUD | 9, PUD: PDE | PMD | 9, PMD: PDE | PTE | bits, PTE + 8 * index: leaf}


def test_a_64k_leaf_under_5_bits() -> None:
    pte = LEAF | 0x91_0000 | 0x187
    assert walk(tree(), n_gpa=N + 0x123) == GuestPte(0, 0x91_0123, 16, pte)


def test_a_4k_leaf_under_9_bits() -> None:
    found = walk(tree(LEAF | 0x91_1000 | 4, bits=9), n_gpa=N + 0x123)
    assert (found.error, found.raddr, found.page_shift) == (0, 0x91_1123, 12)


@pytest.mark.parametrize(
    ("words", "shift"),
    [
        ({ROOT: PDE | PUD | 9, PUD: PDE | PMD | 9, PMD: LEAF | 0xC0_0000}, 21),
        ({ROOT: PDE | PUD | 9, PUD: LEAF}, 30),
    ],
)
def test_large_leaves(words: dict[int, int], shift: int) -> None:
    found = walk(words)
    assert (found.error, found.page_shift) == (0, shift)
    assert found.raddr == (words.get(PMD, 0) & 0xFFFF_F000 if shift == 21 else 0) + N


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({ROOT: LEAF}, "a leaf of 512 GiB"),
        ({ROOT: PDE | PUD | 8}, "a second level of 8 bits"),
        ({PUD: PDE | PMD | 13}, "a third level of 13 bits"),
        ({PMD: PDE | PTE | 6}, "a last level of 6 bits"),
        ({ROOT: PDE | PUD + 0x100 | 9}, "a table base with low bits"),
        ({PMD: LEAF | 0x91_0000}, "a 2M leaf at 64K alignment"),
        ({PTE + 16: PDE | PTE | 5}, "no leaf at the last level"),
    ],
)
def test_what_linux_refuses_as_a_configuration(change: dict[int, int], why: str) -> None:
    assert walk(tree() | change).error == EINVAL, why


@pytest.mark.parametrize(
    "root", [PATE & ~0x20 | ROOT, PATE & ~0x1F | 12 | ROOT, PATE | ROOT + 0x1000]
)
def test_roots_that_linux_refuses(root: int) -> None:
    assert walk(tree(), root).error == EINVAL


def test_an_entry_without_v_is_no_translation() -> None:
    assert walk(tree(1 << 62 | 0x91_0000)).error == ENOENT


def test_a_table_outside_memory_is_named() -> None:
    words = tree() | {PUD: PDE | 0x1_0000_0000 | 9}
    assert walk(words) == GuestPte(EFAULT, 0x1_0000_0000)


def test_hr_does_not_matter() -> None:
    assert walk(tree(), PATE | ROOT | 1 << 63).error == 0
