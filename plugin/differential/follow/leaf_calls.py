"""Kernel calls that change leaves and chains: what the model makes of each.

`before` compares what the call is about to change, `after` runs the model's own
transition on the mirror and compares what the call has changed.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from nestscope.decoders.compare import Difference
from nestscope.decoders.words.pte import PTE_C, PTE_EAA_WRITE, PTE_R, PTE_RPN
from nestscope.plugin.differential.follow.checks import Checker, describe_leaf
from nestscope.plugin.differential.follow.mirror import VmMirror
from nestscope.plugin.differential.follow.shadow_value import check_value
from nestscope.sim import rmap
from nestscope.sim.constants import EAGAIN, PMD_SHIFT, PUD_SHIFT
from nestscope.sim.create import Entry, create_pte
from nestscope.sim.kvm import Memslot
from nestscope.sim.steps import drain
from nestscope.sim.tree import RadixTree
from nestscope.sim.unmap import unmap_pte, update_nest_rmap_rc_list


@dataclass
class KernelCall(ABC):
    """A call that has been entered. `locked`: its caller holds `mmu_lock` until it returns."""

    vm: VmMirror
    checker: Checker

    locked = True

    def before(self) -> list[Difference]:
        """Compare what the call is about to change."""
        return []

    def settle(self) -> None:  # noqa: B027  most calls have had none yet
        """Bring the mirror up to date if the call has had its effect already."""

    @abstractmethod
    def after(self, result: int) -> list[Difference]:
        """Run the model's transition and compare; `result` is r3 as an `int`."""

    def touched(self) -> list[Difference]:
        """Compare what the call has changed, with the mirror up to date."""
        return []


@dataclass
class CreatePte(KernelCall):
    """`kvmppc_create_pte`: a leaf of `1 << shift` bytes, and `entry` if it is a shadow leaf.

    It takes `mmu_lock` itself, so others may come before it. `refused`: the sequence
    number that it was given is out of date, so it must return -EAGAIN. `doubts` are
    differences that showed when it took effect.
    """

    tree: RadixTree
    pte: int
    address: int
    shift: int
    entry: Entry | None = None
    refused: bool = False
    done: bool = False
    doubts: list[Difference] = field(default_factory=list)

    locked = False

    def before(self) -> list[Difference]:
        """Compare the leaf and the chain that the entry goes into."""
        found = self.touched()
        old, size = self.tree.find(self.address)
        if size == (0 if self.shift < PMD_SHIFT else self.shift) and old and self._mixes(old):
            path = f"{self.vm.name_of(self.tree)}[{self.address:#x}]"
            what = f"{describe_leaf(self.pte, self.shift)} ORed into it (finding 0002)"
            found.append(Difference(path, describe_leaf(old, self.shift), what))
        return found

    def _mixes(self, old: int) -> bool:
        return not self.refused and bool((old ^ self.pte) & PTE_RPN)

    def settle(self) -> None:
        """Apply the call as soon as its leaf is seen: another vCPU may go on from there."""
        if self.done or self.refused:
            return
        observed, size, _ = self.checker.observer.leaf(self.tree, self.address)
        mine, _ = self.tree.find(self.address)
        if observed != mine and observed == mine | self.pte and size in (0, self.shift):
            self._apply()

    def _apply(self) -> None:
        kvm = self.vm.kvm
        if self.entry is not None:
            leaf = self.address, self.shift, self.pte
            self.doubts = check_value(self.vm, self.checker, self.tree, leaf, self.entry)
        drain(
            create_pte(
                kvm,
                self.tree,
                self.pte,
                self.address,
                self.shift,
                kvm.mmu_invalidate_seq,
                self.entry,
            )
        )
        self.done = True

    def after(self, result: int) -> list[Difference]:
        """0: the leaf must be there, with its entry. Otherwise nothing has changed."""
        if result == 0 and not self.done:
            self._apply()
        found, self.doubts = self.doubts, []
        if result == 0 and self.refused:
            path = f"{self.vm.name_of(self.tree)}[{self.address:#x}]"
            what = f"{-EAGAIN}: mmu_invalidate_seq had moved on"
            found.append(Difference(f"{path}.kvmppc_create_pte", what, "0"))
        return found + self.touched()

    def touched(self) -> list[Difference]:
        """Compare the leaf and the chain."""
        found = self.checker.leaf(self.vm, self.tree, self.address)
        if self.entry is not None:
            found += self.checker.chain(self.vm, self.entry[0], self.entry[1])
        return found


@dataclass
class UnmapPte(KernelCall):
    """`kvmppc_unmap_pte`: a leaf goes; of the host tree, all shadow leaves made from it, too.

    `shift` is 0 or PAGE_SHIFT for a base page. `place` is where the PTE is that the
    kernel clears.
    """

    tree: RadixTree
    place: int
    gpa: int
    shift: int
    memslot: Memslot | None
    words: set[int] = field(default_factory=set)

    def before(self) -> list[Difference]:
        """Compare the leaf, the chains of all its gfns, and what they lead to."""
        checker, vm = self.checker, self.vm
        found = checker.leaf(vm, self.tree, self.gpa)
        pte, _, place = checker.observer.leaf(self.tree, self.gpa)
        if pte and place != self.place:
            path = f"{vm.name_of(self.tree)}[{self.gpa:#x}]"
            found.append(
                Difference(path, f"its PTE cleared, at {place:#x}", f"the one at {self.place:#x}")
            )
        if self.tree is not vm.kvm.pgtable:
            return found
        slot = self._slot()
        if slot is None:
            return found
        first, count = self._indices(slot)
        for index in sorted(self._used(slot, first, count)):
            found += checker.chain(vm, slot, index)
            chain = slot.rmap.get(index)
            self.words |= set() if chain is None else set(rmap.stored_words(chain))
        return found + checker.shadows(vm, sorted(self.words))

    def _slot(self) -> Memslot | None:
        return self.memslot or self.vm.kvm.gfn_to_memslot(self.gpa >> self.vm.kvm.page_shift)

    def _indices(self, slot: Memslot) -> tuple[int, int]:
        """Return first index and number of rmap words of the leaf, inside the slot."""
        page_shift = self.vm.kvm.page_shift
        size = max(self.shift, page_shift)
        first = (self.gpa >> size << size - page_shift) - slot.base_gfn
        last = min(first + (1 << size - page_shift), slot.npages)
        return max(first, 0), max(last - max(first, 0), 0)

    def _used(self, slot: Memslot, first: int, count: int) -> set[int]:
        """Return the indices with a chain, in the mirror or in memory."""
        used = self.checker.observer.used_words(slot.rmap_array, first, count)
        return used | {index for index in slot.rmap if first <= index < first + count}

    def after(self, result: int) -> list[Difference]:  # noqa: ARG002  it returns nothing
        """Run `sim.unmap.unmap_pte`, then compare."""
        shift = 0 if self.shift == self.vm.kvm.page_shift else self.shift
        unmap_pte(self.vm.kvm, self.tree, self.gpa, shift, self.memslot)
        return self.touched()

    def touched(self) -> list[Difference]:
        """Compare the leaf, the chains and the shadow leaves that the chains led to."""
        checker, vm = self.checker, self.vm
        found = checker.leaf(vm, self.tree, self.gpa)
        slot = self._slot()
        if self.tree is vm.kvm.pgtable and slot is not None:
            for index in sorted(self._used(slot, *self._indices(slot))):
                found += checker.chain(vm, slot, index)
            found += checker.shadows(vm, sorted(self.words))
        return found


@dataclass
class HandleSetRc(KernelCall):
    """`kvmppc_hv_handle_set_rc`: R, and C for a store, are set in a leaf that allows it."""

    tree: RadixTree | None
    address: int
    writing: bool

    def before(self) -> list[Difference]:
        """Compare the leaf."""
        return self.touched()

    def after(self, result: int) -> list[Difference]:
        """Compare the answer (a bool) and the leaf."""
        pte, shift = (0, 0) if self.tree is None else self.tree.find(self.address)
        can = bool(pte) and (not self.writing or bool(pte & PTE_EAA_WRITE))
        found = []
        if can and self.tree is not None:
            needed = PTE_R | (PTE_C if self.writing else 0)
            self.tree.change(self.address, shift, pte | needed)
        if bool(result & 0xFF) != can:
            path = f"{self.vm.path}.kvmppc_hv_handle_set_rc[{self.address:#x}]"
            found.append(Difference(path, str(can), str(bool(result & 0xFF))))
        return found + self.touched()

    def touched(self) -> list[Difference]:
        """Compare the leaf."""
        if self.tree is None:
            return []
        return self.checker.leaf(self.vm, self.tree, self.address)


@dataclass
class UpdateRcList(KernelCall):
    """`kvmhv_update_nest_rmap_rc_list`: its caller took R or C from the host leaf just before."""

    slot: Memslot
    index: int
    clear: int
    hpa: int
    nbytes: int

    def before(self) -> list[Difference]:
        """Take the bits from the mirror's host leaf, too, and compare it and the chain."""
        tree, gpa = self.vm.kvm.pgtable, self._gpa()
        pte, shift = tree.find(gpa)
        if pte:
            tree.change(gpa, shift, pte & ~self.clear)
        found = self.checker.leaf(self.vm, tree, gpa, just_cleared=self.clear)
        found += self.checker.chain(self.vm, self.slot, self.index)
        return found + self.checker.shadows(self.vm, self._words())

    def _gpa(self) -> int:
        return self.slot.base_gfn + self.index << self.vm.kvm.page_shift

    def _words(self) -> list[int]:
        chain = self.slot.rmap.get(self.index)
        return [] if chain is None else sorted(set(rmap.stored_words(chain)))

    def after(self, result: int) -> list[Difference]:  # noqa: ARG002  it returns nothing
        """Run `sim.unmap.update_nest_rmap_rc_list`, then compare."""
        shift = self.nbytes.bit_length() - 1
        update_nest_rmap_rc_list(
            self.vm.kvm, self.slot, self.index, self.clear, self.hpa & PTE_RPN, shift
        )
        return self.touched()

    def touched(self) -> list[Difference]:
        """Compare the chain, which stays, and the shadow leaves."""
        found = self.checker.chain(self.vm, self.slot, self.index)
        return found + self.checker.shadows(self.vm, self._words(), just_cleared=self.clear)


@dataclass
class FreeTree(KernelCall):
    """`kvmppc_free_pgtable_radix`: every leaf and table of a tree goes, no chain is looked at."""

    tree: RadixTree

    def after(self, result: int) -> list[Difference]:  # noqa: ARG002  it returns nothing
        """Empty the mirror's tree and compare the root table."""
        self.tree.clear()
        self.vm.structs.pop(self.tree.root, None)
        return self.touched()

    def touched(self) -> list[Difference]:
        """Compare the root table with an empty one."""
        if self.tree.ptes or self.checker.observer.is_empty(self.tree):
            return []
        return [Difference(f"{self.vm.name_of(self.tree)}", "an empty root table", "entries")]


LEVEL_SHIFTS = {1: PMD_SHIFT, 2: PUD_SHIFT}
"""`level` of `kvmppc_create_pte` to log2 of the leaf's size; 0 is a base page."""
