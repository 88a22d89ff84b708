"""The kernel's walk of a guest's own partition-scoped tree.

`kvmppc_mmu_walk_radix_tree`: what Linux accepts, not what the ISA or QEMU do
(facts A, "QEMU vs Linux").
"""

from typing import NamedTuple

from nestscope.decoders.words.pate import address_bits, root_bits, root_table
from nestscope.decoders.words.pde import PDE_NLB, PDE_NLS
from nestscope.decoders.words.pte import PTE_LEAF, PTE_RPN, PTE_V
from nestscope.sim.constants import EFAULT, EINVAL, ENOENT
from nestscope.sim.entry_state import UNKNOWN
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.kvm import Kvm

LEVEL_BITS = (5, 9, 9, 13)
"""`p9_supported_radix_bits`, indexed by level; level 0 may also have 9."""


class GuestPte(NamedTuple):
    """`struct kvmppc_pte`: what the guest's leaf says. `raddr` in bytes, `pte` the raw word.

    After a failure `error` is a negative errno and `raddr` the address of the
    table entry that could not be read.
    """

    error: int
    raddr: int = 0
    page_shift: int = 0
    pte: int = 0


def walk_guest_tree(kvm: Kvm, n_gpa: int, root: int) -> GuestPte:
    """Translate a nested real address to a guest real one with PATE doubleword 0 `root`."""
    offset = address_bits(root)
    if offset != 52:
        return GuestPte(-EINVAL)
    bits = root_bits(root)
    base = root_table(root)
    for level in (3, 2, 1, 0):
        if bits != LEVEL_BITS[level] and not (level == 0 and bits == 9):
            return GuestPte(-EINVAL)
        offset -= bits
        if base & ((1 << bits + 3) - 1):
            return GuestPte(-EINVAL)
        address = base + (n_gpa >> offset & (1 << bits) - 1) * 8
        data = kvm.read_guest(address, 8)
        if data is None:
            return GuestPte(-EFAULT, address)
        if data == UNKNOWN:
            raise UnmodelledError("a guest's tree with what only the machine knows")
        pte = int.from_bytes(data, "big")
        if not pte & PTE_V:
            return GuestPte(-ENOENT)
        if pte & PTE_LEAF == PTE_LEAF:
            return leaf_of(pte, n_gpa, level, offset)
        base = pte & PDE_NLB
        bits = pte & PDE_NLS
    return GuestPte(-EINVAL)


def leaf_of(pte: int, n_gpa: int, level: int, shift: int) -> GuestPte:
    """Return the translation of a leaf of `1 << shift` bytes found at `level`."""
    raddr = pte & PTE_RPN
    offset_mask = (1 << shift) - 1
    if level == 3 or raddr & offset_mask:
        return GuestPte(-EINVAL)
    return GuestPte(0, raddr | n_gpa & offset_mask, shift, pte)
