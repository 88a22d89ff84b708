"""What the processor's MMU does with one leaf of a partition-scoped tree.

QEMU `target/ppc/mmu-radix64.c`, `ppc_radix64_partition_scoped_xlate`: first
the walk, then the access authority, then R and C. The lab runs on it; real
POWER9 agrees but never writes R and C itself.
"""

from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
)
from nestscope.sim.constants import DSISR_ISSTORE, DSISR_NOHPTE, DSISR_PROTFAULT, DSISR_SET_RC
from nestscope.sim.tree import RadixTree

PERMITS = {
    "load": PTE_EAA_READ | PTE_EAA_WRITE,
    "store": PTE_EAA_WRITE,
    "fetch": PTE_EAA_EXECUTE,
}
"""EAA bits of which one is enough; RW implies read."""


def access_fault(tree: RadixTree, address: int, kind: str, *, rc_by_hardware: bool) -> int:
    """Return 0 if the access goes through, else DSISR (SRR1 for a fetch).

    Sets R, and C for a store, in the leaf where the hardware does that.
    """
    pte, shift = tree.find(address)
    store = DSISR_ISSTORE if kind == "store" else 0
    if not pte:
        return DSISR_NOHPTE | store
    if not pte & PERMITS[kind]:
        return DSISR_PROTFAULT | store
    needed = PTE_R | PTE_C if store else PTE_R
    if pte & needed != needed:
        if not rc_by_hardware:
            return DSISR_SET_RC | store
        tree.change(address, shift, pte | needed)
    return 0
