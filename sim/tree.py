"""A partition-scoped radix tree of the host: `kvm->arch.pgtable` or a shadow tree.

Leaves are kept per level, keyed by the address that they map shifted right by
log2 of their page size. Which tables exist is kept too: the kernel keeps
emptied tables, and what it can do next depends on them.
"""

from collections.abc import Iterator

from nestscope.sim.constants import EFFECTIVE_BITS, PMD_SHIFT, PUD_SHIFT

NO_LEAF = (0, 0)


class RadixTree:
    """Four levels (13/9/9/5 or 13/9/9/9 bits) over 52 address bits.

    `ptes`, `pmd_leaves`, `pud_leaves`: leaves of base page, 2M and 1G size.
    `pud_tables`, `pmd_tables`, `pte_tables`: tables that exist, keyed by the
    address shifted right by what one table covers. `root` stands for the
    address of the page directory.
    """

    __slots__ = (
        "page_shift",
        "pmd_leaves",
        "pmd_tables",
        "pte_tables",
        "ptes",
        "pud_leaves",
        "pud_tables",
        "root",
    )

    def __init__(self, page_shift: int, root: int) -> None:
        self.page_shift = page_shift
        self.root = root
        self.ptes: dict[int, int] = {}
        self.pmd_leaves: dict[int, int] = {}
        self.pud_leaves: dict[int, int] = {}
        self.pud_tables: set[int] = set()
        self.pmd_tables: set[int] = set()
        self.pte_tables: set[int] = set()

    def find(self, address: int) -> tuple[int, int]:
        """Return `(pte, shift)` of the leaf that covers `address`, `(0, 0)` without one.

        `__find_linux_pte`: as there, `shift` is 0 for a base page.
        """
        address &= EFFECTIVE_BITS
        pte = self.ptes.get(address >> self.page_shift)
        if pte is not None:
            return pte, 0
        if self.pmd_leaves and (pte := self.pmd_leaves.get(address >> PMD_SHIFT)) is not None:
            return pte, PMD_SHIFT
        if self.pud_leaves and (pte := self.pud_leaves.get(address >> PUD_SHIFT)) is not None:
            return pte, PUD_SHIFT
        return NO_LEAF

    def leaves_of(self, shift: int) -> dict[int, int]:
        """Return the leaves of one size; `shift` as `find` gives it."""
        if shift == PMD_SHIFT:
            return self.pmd_leaves
        return self.pud_leaves if shift == PUD_SHIFT else self.ptes

    def change(self, address: int, shift: int, pte: int) -> None:
        """Store the word of the leaf at `address`; 0 clears it and keeps its table."""
        leaves = self.leaves_of(shift)
        key = (address & EFFECTIVE_BITS) >> (shift or self.page_shift)
        if pte:
            leaves[key] = pte
        else:
            leaves.pop(key, None)

    def huge_leaves(self) -> tuple[tuple[int, dict[int, int]], ...]:
        """Return log2 of the size and the leaves of each size above the base page's."""
        return (PMD_SHIFT, self.pmd_leaves), (PUD_SHIFT, self.pud_leaves)

    def clear(self) -> None:
        """Drop every leaf and every table but the root (`kvmppc_free_pgtable_radix`)."""
        for part in (self.ptes, self.pmd_leaves, self.pud_leaves):
            part.clear()
        for tables in (self.pud_tables, self.pmd_tables, self.pte_tables):
            tables.clear()

    def leaves(self) -> Iterator[tuple[int, int, int]]:
        """Yield `(address, shift, pte)` of every leaf, in no order."""
        for shift, leaves in (
            (self.page_shift, self.ptes),
            (PMD_SHIFT, self.pmd_leaves),
            (PUD_SHIFT, self.pud_leaves),
        ):
            for key, pte in leaves.items():
                yield key << shift, shift, pte
