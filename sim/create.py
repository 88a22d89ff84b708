"""Putting a leaf into a tree: `kvmppc_create_pte`."""

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim import rmap
from nestscope.sim.constants import (
    EAGAIN,
    ENOMEM,
    PGDIR_SHIFT,
    PMD_SHIFT,
    PUD_SHIFT,
)
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.kvm import Kvm
from nestscope.sim.rmap import Rmap
from nestscope.sim.tree import RadixTree


def create_pte(
    kvm: Kvm,
    tree: RadixTree,
    pte: int,
    address: int,
    mmu_seq: int,
    *,
    chain: tuple[Rmap, int, int] | None = None,
) -> int:
    """Insert a base-page leaf; return 0, -EAGAIN or -ENOMEM.

    `chain` is `(rmap, index, word)` for a shadow leaf, None for a host leaf.
    Transitions 4 to 7 (new leaf), 8 (same word), 9 (more bits) and 13 (not now).
    """
    failed = failed_tables(kvm, tree, address)
    if kvm.mmu_invalidate_seq != mmu_seq or kvm.strikes("retry"):
        return -EAGAIN
    if failed:
        add_tables_above(tree, address, failed)
        return -ENOMEM
    if tree.pmd_leaves or tree.pud_leaves:
        refuse_large_leaf(tree, address)
    tree.add_tables(address)
    key = address >> tree.page_shift
    old = tree.ptes.get(key)
    if old is None:
        tree.ptes[key] = pte
        if chain is not None:
            rmap.insert(*chain)
    elif old != pte:
        tree.ptes[key] = merged_pte(old, pte, address)
    return 0


def merged_pte(old: int, new: int, address: int) -> int:
    """Return the word of a leaf that gains the bits of `new` (transition 9).

    The kernel ORs the two words whatever they hold, and warns once if they
    differ in more than W, R and C. With different host pages that makes a third
    page number, which abstract frames cannot express.
    """
    if (old ^ new) & PTE_RPN:
        raise UnmodelledError(
            f"the leaf at {address:#x} is {old:#018x} and the kernel ORs {new:#018x} into it "
            "(WARN_ON_ONCE in kvmppc_create_pte): the guest changed a translation in use "
            "without a tlbie"
        )
    return old | new


def failed_tables(kvm: Kvm, tree: RadixTree, address: int) -> str:
    """Return which allocation of a table failed first, "" for none (transition 13)."""
    if not kvm.failures:
        return ""
    for name, tables, shift in (
        ("pud_table", tree.pud_tables, PGDIR_SHIFT),
        ("pmd_table", tree.pmd_tables, PUD_SHIFT),
        ("pte_table", tree.pte_tables, PMD_SHIFT),
    ):
        if address >> shift not in tables and kvm.strikes(name):
            return name
    return ""


def add_tables_above(tree: RadixTree, address: int, failed: str) -> None:
    """Keep the tables above the one that could not be allocated."""
    if failed != "pud_table":
        tree.pud_tables.add(address >> PGDIR_SHIFT)
    if failed == "pte_table":
        tree.pmd_tables.add(address >> PUD_SHIFT)


def refuse_large_leaf(tree: RadixTree, address: int) -> None:
    """Refuse what transitions 11 and 22 will specify."""
    if address >> PMD_SHIFT in tree.pmd_leaves or address >> PUD_SHIFT in tree.pud_leaves:
        raise UnmodelledError(f"a base page replaces a large leaf at {address:#x}")
