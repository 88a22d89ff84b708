"""Kernel calls for what the guest itself asked for: its tlbie and its partition table."""

from dataclasses import dataclass, field

from nestscope.decoders.compare import Difference
from nestscope.plugin.differential.follow.leaf_calls import KernelCall
from nestscope.plugin.differential.follow.mirror import RealKvm, VmMirror
from nestscope.sim.constants import H_PARAMETER, H_SUCCESS
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.kvm import NestedGuest
from nestscope.sim.nested import set_partition_table
from nestscope.sim.steps import drain
from nestscope.sim.tlbie import do_nested_tlbie
from nestscope.sim.tree import RadixTree

_RIC = 3 << 18


@dataclass
class NestedTlbie(KernelCall):
    """`kvmhv_do_nested_tlbie`: H_TLB_INVALIDATE with its three arguments.

    What the model clears, running on a copy of the shadow trees, must be gone when the
    call returns. Other vCPUs may have made leaves anew meanwhile: `made` has their
    trees and addresses.
    """

    instruction: int
    rs: int
    rb: int
    expected: int = H_SUCCESS
    cleared: list[tuple[RadixTree, int]] = field(default_factory=list)
    made: set[tuple[int, int]] = field(default_factory=set)

    locked = False

    def before(self) -> list[Difference]:
        """Run the model on copies, to see what it clears."""
        copy = copy_of(self.vm)
        instruction = self.instruction
        if self._scope() and instruction & _RIC == 2 << 18:
            # RIC=2 reads the partition table entry as well, which is the guest's own memory.
            instruction &= ~_RIC
        self.expected = drain(do_nested_tlbie(copy, instruction, self.rs, self.rb))
        for l1_lpid, guest in self.vm.kvm.nested.items():
            left = {address for address, _, _ in copy.nested[l1_lpid].shadow.leaves()}
            self.cleared += [
                (guest.shadow, address)
                for address, _, _ in guest.shadow.leaves()
                if address not in left
            ]
        return []

    def after(self, result: int) -> list[Difference]:
        """Compare the answer; no leaf that the model clears may be left."""
        path = f"{self.vm.path}.H_TLB_INVALIDATE"
        expected = signed(self.expected)
        if result == signed(H_PARAMETER) and expected == H_SUCCESS and self._unknown_size():
            return []
        found = []
        if result != expected:
            found.append(Difference(f"{path}.result", str(expected), str(result)))
        for tree, address in self.cleared:
            if tree.find(address)[0] and (tree.root, address) not in self.made:
                where = f"{self.vm.name_of(tree)}[{address:#x}]"
                found.append(Difference(where, "cleared by the guest's tlbie", "still there"))
        return found

    def _unknown_size(self) -> bool:
        """Whether the host may know no such AP encoding (`HostFacts.tlbie_shifts`)."""
        return self._scope() == 0 and self.rb >> 5 & 7 in (1, 2)

    def _scope(self) -> int:
        """IS, bits 52:53 of RB."""
        return self.rb >> 10 & 3


@dataclass
class SetPartitionTable(KernelCall):
    """`kvmhv_set_partition_table`: H_SET_PARTITION_TABLE with its argument."""

    ptcr: int

    locked = False

    def after(self, result: int) -> list[Difference]:
        """Compare the answer and `l1_ptcr`."""
        expected = signed(set_partition_table(self.vm.kvm, self.ptcr))
        found = []
        if result != expected:
            path = f"{self.vm.path}.H_SET_PARTITION_TABLE.result"
            found.append(Difference(path, str(expected), str(result)))
        return found + self.touched()

    def touched(self) -> list[Difference]:
        """Compare `l1_ptcr`."""
        kvm = self.vm.kvm
        _, observed, _ = self.checker.observer.members(kvm.address)
        if observed == kvm.l1_ptcr:
            return []
        found = Difference(f"{self.vm.path}.l1_ptcr", f"{kvm.l1_ptcr:#x}", f"{observed:#x}")
        kvm.l1_ptcr = observed
        return [found]


def signed(result: int) -> int:
    """Return the model's unsigned result of a hypercall as an `int`."""
    return result - (1 << 64) if result >> 63 else result


def copy_of(vm: VmMirror) -> RealKvm:
    """Return a VM with copies of the shadow trees of the nested guests, and nothing else."""
    kvm = vm.kvm
    copy = RealKvm(kvm.facts, HostMemory(kvm.page_shift))
    copy.l1_ptcr = kvm.l1_ptcr
    for l1_lpid, guest in kvm.nested.items():
        tree = RadixTree(kvm.page_shift, guest.shadow.root)
        for name in ("ptes", "pmd_leaves", "pud_leaves"):
            setattr(tree, name, dict(getattr(guest.shadow, name)))
        for name in ("pud_tables", "pmd_tables", "pte_tables"):
            setattr(tree, name, set(getattr(guest.shadow, name)))
        made = NestedGuest(l1_lpid, guest.shadow_lpid, tree)
        made.refcnt = 2
        copy.nested[l1_lpid] = made
    return copy
