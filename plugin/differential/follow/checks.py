"""Comparing small parts of a mirror with the kernel, and taking over what differs.

A difference is told once: the mirror then holds what was observed, so that the
kernel can be followed further.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from nestscope.decoders.compare import Difference
from nestscope.decoders.words.pte import PTE_C, PTE_EAA_WRITE, PTE_R
from nestscope.plugin.differential.follow.mirror import VmMirror, add_tables
from nestscope.plugin.differential.follow.observe import Observer
from nestscope.sim import rmap
from nestscope.sim.kvm import Memslot
from nestscope.sim.rmap import Chain
from nestscope.sim.tree import RadixTree


@dataclass
class Tally:
    """What was compared.

    `leaves`, `chains`: comparisons at calls. `rc_gained`: leaves in which R or C was
    set without a call, as the hardware does. `guest_leaves`: new shadow leaves that were
    compared with the guest's own tree, too. `unjudged`: calls at which another
    vCPU was in the middle of its own.
    """

    calls: dict[str, int] = field(default_factory=dict)
    inner: int = 0
    leaves: int = 0
    chains: int = 0
    rc_gained: int = 0
    guest_leaves: int = 0
    unjudged: int = 0

    def called(self, function: str) -> None:
        """Count one call."""
        self.calls[function] = self.calls.get(function, 0) + 1


def gained_rc(expected: int, observed: int) -> bool:
    """Say whether a leaf only gained R or C, the latter where it may be written.

    Hardware may set them at any time (Power ISA, Book III, "Reference and Change
    Recording"; QEMU before 8.2 does). No hardware clears them.
    """
    gained = observed & ~expected
    if observed & expected != expected or gained & ~(PTE_R | PTE_C):
        return False
    return not gained & PTE_C or bool(observed & PTE_EAA_WRITE)


@dataclass
class Checker:
    """Compares leaves and chains of mirrors with memory.

    `one_vcpu`: the machine has a single one, so no leaf is used while the host runs.
    """

    observer: Observer
    tally: Tally = field(default_factory=Tally)
    one_vcpu: bool = True

    def leaf(
        self, vm: VmMirror, tree: RadixTree, address: int, *, just_cleared: int = 0
    ) -> list[Difference]:
        """Compare the leaf that covers `address`.

        R or C may have been gained, except for the bits in `just_cleared`.
        """
        expected, size = tree.find(address)
        observed, found, _ = self.observer.leaf(tree, address)
        self.tally.leaves += 1
        if (expected, size) == (observed, found):
            return []
        page_shift = vm.kvm.page_shift
        again = self.one_vcpu and bool(observed & ~expected & just_cleared)
        if expected and size == found and gained_rc(expected, observed) and not again:
            self.tally.rc_gained += 1
            tree.change(address, size, observed)
            return []
        if expected:
            tree.change(address, size, 0)
        if observed:
            tree.change(address, found, observed)
            add_tables(tree, address, found or page_shift)
        path = f"{vm.name_of(tree)}[{address & -1 << (size or found or page_shift):#x}]"
        return [
            Difference(
                path,
                describe_leaf(expected, size or page_shift),
                describe_leaf(observed, found or page_shift),
            )
        ]

    def chain(self, vm: VmMirror, slot: Memslot, index: int) -> list[Difference]:
        """Compare the chain of one rmap word, order included."""
        observed, trouble = self.observer.chain(slot.rmap_array + 8 * index)
        expected = slot.rmap.get(index)
        self.tally.chains += 1
        path = f"{vm.path}.memslots[id={slot.id}].rmap[gfn={slot.base_gfn + index:#x}]"
        found = [] if trouble is None else [Difference(path, "a well-formed chain", trouble)]
        if expected != observed:
            found.append(Difference(path, describe_chain(expected), describe_chain(observed)))
            if observed is None:
                slot.rmap.pop(index, None)
            else:
                slot.rmap[index] = observed
        return found

    def shadows(
        self, vm: VmMirror, words: Iterable[int], *, just_cleared: int = 0
    ) -> list[Difference]:
        """Compare the shadow leaves that rmap words lead to (see `leaf`)."""
        found = []
        for word in words:
            l1_lpid, n_gpa = rmap.unpack(word)
            guest = vm.kvm.nested.get(l1_lpid)
            if guest is not None:
                found += self.leaf(vm, guest.shadow, n_gpa, just_cleared=just_cleared)
        return found


def describe_leaf(pte: int, shift: int) -> str:
    """One line for a leaf."""
    return f"{pte:#018x} (2^{shift} bytes)" if pte else "no leaf"


def describe_chain(chain: Chain | None) -> str:
    """One line for a chain, head first."""
    if chain is None:
        return "empty"
    words = [rmap.unpack(word) for word in rmap.stored_words(chain)]
    return " -> ".join(f"l1_lpid {lpid} n_gpa {n_gpa:#x}" for lpid, n_gpa in words)
