"""What a new shadow leaf may hold: no other page and no more rights than both stages give.

`__kvmhv_nested_page_fault` makes the word that `kvmppc_create_pte` is given, from the
host's leaf and the guest's. The call alone does not tell whether it was made rightly.
"""

from nestscope.decoders.compare import Difference
from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
    PTE_RPN,
)
from nestscope.plugin.differential.follow.checks import Checker, describe_leaf
from nestscope.plugin.differential.follow.mirror import VmMirror
from nestscope.sim.create import Entry
from nestscope.sim.tree import RadixTree

_RIGHTS = PTE_EAA_READ | PTE_EAA_WRITE | PTE_EAA_EXECUTE


def check_value(
    vm: VmMirror,
    checker: Checker,
    tree: RadixTree,
    leaf: tuple[int, int, int],
    entry: Entry,
) -> list[Difference]:
    """Compare a shadow leaf `(n_gpa, shift, pte)` with what it is made of, and its entry's gfn.

    The host's leaf is the mirror's, so that its R and C may be out of date. The guest's is
    read from its own memory: that is left out where it may have changed meanwhile
    (`Observer.guest_leaf`).
    """
    n_gpa, shift, pte = leaf
    slot, index, _ = entry
    page_shift = vm.kvm.page_shift
    gpa = slot.base_gfn + index << page_shift
    path = f"{vm.name_of(tree)}[{n_gpa:#x}]"
    shown = describe_leaf(pte, shift)
    host, size = vm.kvm.pgtable.find(gpa)
    if not host:
        return [Difference(path, f"a host leaf at {gpa:#x}, where its entry is", f"none; {shown}")]
    size = size or page_shift
    inside = (1 << size) - 1
    found = []
    if (pte ^ host) & PTE_RPN & ~inside:
        found.append(Difference(path, f"a page of the host's {describe_leaf(host, size)}", shown))
    if pte & _RIGHTS & ~host:
        found.append(Difference(path, f"no right beyond the host's {host:#x}", shown))
    guest = checker.observer.guest_leaf(vm, tree, n_gpa)
    if guest is None:
        return found
    checker.tally.guest_leaves += 1
    granted, real = guest
    if pte & (_RIGHTS | PTE_R | PTE_C) & ~granted:
        found.append(Difference(path, f"no bit beyond the guest's {granted:#x}", shown))
    if real & ~inside != gpa:
        here = f"an entry of gfn {(real & ~inside) >> page_shift:#x}, to which the guest maps it"
        found.append(Difference(path, here, f"of gfn {gpa >> page_shift:#x}"))
    elif (pte ^ real) & PTE_RPN & inside & -1 << shift:
        found.append(Difference(path, f"the part of the host's page at {real:#x}", shown))
    return found
