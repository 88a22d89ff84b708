"""Putting a leaf into a tree: `kvmppc_create_pte`."""

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim import rmap
from nestscope.sim.constants import (
    EAGAIN,
    EFFECTIVE_BITS,
    ENOMEM,
    PGDIR_SHIFT,
    PMD_SHIFT,
    PUD_SHIFT,
)
from nestscope.sim.errors import HostDamageError
from nestscope.sim.kvm import Kvm, Memslot
from nestscope.sim.steps import Steps
from nestscope.sim.tree import RadixTree
from nestscope.sim.unmap import free_pmd_table, free_pte_table, unmap_pte

Entry = tuple[Memslot, int, int]
"""Where the rmap entry of a shadow leaf goes: slot, index in its array, packed word."""


def create_pte(  # noqa: PLR0912  the kernel's own sequence of checks
    kvm: Kvm,
    tree: RadixTree,
    pte: int,
    address: int,
    shift: int,
    mmu_seq: int,
    entry: Entry | None = None,
) -> Steps[int]:
    """Insert a leaf of `1 << shift` bytes; return 0, -EAGAIN or -ENOMEM.

    `kvmppc_create_pte`; `entry` is None for a host leaf. Transitions 4 to 7 (new
    leaf), 8 (same word), 9 (more bits), 11, 12 and 22 (a leaf of another size) and
    13 (not now). Tables are allocated before `mmu_lock` is taken, for what was
    missing then; tables that were put in stay whatever comes.
    """
    address &= EFFECTIVE_BITS
    block, large, giant = address >> PGDIR_SHIFT, address >> PMD_SHIFT, address >> PUD_SHIFT
    pud_is_there = block in tree.pud_tables
    new_pud = not pud_is_there and not kvm.strikes("pud_table")
    pmd_is_there = pud_is_there and giant in tree.pmd_tables
    new_pmd = not pmd_is_there and shift <= PMD_SHIFT and not kvm.strikes("pmd_table")
    pte_is_there = pmd_is_there and large in tree.pte_tables
    new_pte = shift < PMD_SHIFT and not pte_is_there and not kvm.strikes("pte_table")

    yield "set the leaf"
    if kvm.invalidated_since(mmu_seq) or kvm.strikes("retry"):
        return -EAGAIN
    if block not in tree.pud_tables:
        if not new_pud:
            return -ENOMEM
        tree.pud_tables.add(block)
    if tree.pud_leaves and (old := tree.pud_leaves.get(giant)) is not None:
        if shift == PUD_SHIFT and not replaces(kvm, old, pte, entry):
            tree.pud_leaves[giant] = merged_pte(kvm, old, pte, PUD_SHIFT)
            return 0
        if shift < PUD_SHIFT and not new_pmd:
            return -EAGAIN  # a table was there a moment ago: somebody else put the leaf in
        unmap_pte(kvm, tree, giant << PUD_SHIFT, PUD_SHIFT)
    if shift == PUD_SHIFT:
        if giant in tree.pmd_tables:
            free_pmd_table(kvm, tree, address)
        return set_leaf(kvm, tree.pud_leaves, giant, pte, entry)
    if giant not in tree.pmd_tables:
        if not new_pmd:
            return -ENOMEM
        tree.pmd_tables.add(giant)
    if tree.pmd_leaves and (old := tree.pmd_leaves.get(large)) is not None:
        if shift == PMD_SHIFT and not replaces(kvm, old, pte, entry):
            tree.pmd_leaves[large] = merged_pte(kvm, old, pte, PMD_SHIFT)
            return 0
        if shift < PMD_SHIFT and not new_pte:
            return -EAGAIN
        unmap_pte(kvm, tree, large << PMD_SHIFT, PMD_SHIFT)
    if shift == PMD_SHIFT:
        if large in tree.pte_tables:
            free_pte_table(kvm, tree, address)
        return set_leaf(kvm, tree.pmd_leaves, large, pte, entry)
    if large not in tree.pte_tables:
        if not new_pte:
            return -ENOMEM
        tree.pte_tables.add(large)
    key = address >> tree.page_shift
    old = tree.ptes.get(key)
    if old is not None and not replaces(kvm, old, pte, entry):
        tree.ptes[key] = merged_pte(kvm, old, pte, tree.page_shift)
        return 0
    return set_leaf(kvm, tree.ptes, key, pte, entry)


def set_leaf(kvm: Kvm, leaves: dict[int, int], key: int, pte: int, entry: Entry | None) -> int:
    """Store a new leaf and, for a shadow leaf, enter it in the rmap; return 0."""
    leaves[key] = pte
    if entry is not None:
        memslot, index, word = entry
        if memslot.freed:
            kvm.uses_after_free.append(f"kvmhv_insert_nest_rmap: the array of slot {memslot.id}")
        if index < 0:
            raise HostDamageError(
                "0003", f"the rmap array of slot {memslot.id} is written {-index} words before it"
            )
        rmap.insert(memslot.rmap, index, word, whole="0001" in kvm.facts.mended)
    return 0


def replaces(kvm: Kvm, old: int, new: int, entry: Entry | None) -> bool:
    """Say whether a shadow leaf of another host page is replaced: finding 0002, mended."""
    return "0002" in kvm.facts.mended and entry is not None and bool((old ^ new) & PTE_RPN)


def merged_pte(kvm: Kvm, old: int, new: int, shift: int) -> int:
    """Return the word of a leaf of `1 << shift` bytes that gains the bits of `new`.

    The kernel ORs the two words whatever they hold (transition 9), and warns once if they
    differ in more than W, R and C: with different host pages that makes a third page
    number (finding 0002).
    """
    if not (old ^ new) & PTE_RPN:
        return old | new
    first, second = ((word & PTE_RPN) >> kvm.page_shift for word in (old, new))
    frame = kvm.mix(first, second, shift)
    return (old | new) & ~PTE_RPN | frame << kvm.page_shift
