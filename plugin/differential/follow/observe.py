"""Small reads of the stopped kernel: one leaf, one chain, some members.

Everything here reads memory afresh; whoever lets the kernel run calls `forget`.
"""

from nestscope.decoders.chains import FORM_EMPTY, read_chain
from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import ROOT_BITS
from nestscope.decoders.kernel.record import Record
from nestscope.decoders.radix import RadixRoot, walk
from nestscope.decoders.radix_faults import UnreadableTable
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import FORM_NAMES
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.decoders.words.rmap import RMAP_NESTED_SIZE
from nestscope.plugin.differential.follow.mirror import VmMirror, chain_of
from nestscope.sim.rmap import Chain
from nestscope.sim.tree import NO_LEAF, RadixTree

_WORD = 8
_ROOT_BYTES = 8 << ROOT_BITS


class FollowError(NestscopeError):
    """The kernel cannot be followed, or no longer."""


class _GuestView:
    """A guest's memory through the mirror's host tree (`Memory`): reads inside one page.

    `decoders.guest_memory` translates with a snapshot of all leaves; this tree changes at
    each call.
    """

    def __init__(self, physical: Memory, pgtable: RadixTree) -> None:
        self._physical = physical
        self._pgtable = pgtable

    def read(self, address: int, length: int) -> bytes:
        """Return bytes at a guest real address."""
        pte, shift = self._pgtable.find(address)
        if not pte:
            raise UnreadableMemoryError(address, length, "the host maps no page there")
        inside = (1 << (shift or self._pgtable.page_shift)) - 1
        return self._physical.read(pte & PTE_RPN & ~inside | address & inside, length)


class Observer:
    """Reads what the checks of single calls need.

    Raises (from every method):
        UnreadableMemoryError: if what the call names cannot be read.
    """

    def __init__(self, kernel: Kernel) -> None:
        """Look the layouts up.

        Raises:
            UnknownTypeError: if the kernel's types do not describe KVM's structures.
        """
        self.kernel = kernel
        self.memory = kernel.memory
        types, order = kernel.types, kernel.byteorder
        # mmu_notifier_* until 20ec3ebd707c ("KVM: Rename mmu_notifier_* to mmu_invalidate_*").
        sequence = types.first("kvm", "mmu_invalidate_seq", "mmu_notifier_seq")
        self._kvm = Record(types, "kvm", ["arch.pgtable", "arch.l1_ptcr", sequence], order)
        self._slot = Record(types, "kvm_memory_slot", ["base_gfn", "npages", "arch.rmap"], order)
        self._nested = Record(types, "kvm_nested_guest", ["l1_gr_to_hr"], order)
        self._alone: int | None = None
        if types.first("kvm", "online_vcpus.counter"):
            self._alone = types.offset("kvm", "online_vcpus.counter")
        self._vcpu: tuple[int, int] | None = None
        if types.first("kvm_vcpu", "kvm") and types.first("kvm_vcpu", "arch.regs.gpr"):
            self._vcpu = types.offset("kvm_vcpu", "kvm"), types.offset("kvm_vcpu", "arch.regs.gpr")

    @property
    def knows_vcpus(self) -> bool:
        """Whether the kernel's types tell where `struct kvm_vcpu` has the guest's registers."""
        return self._vcpu is not None

    def forget(self) -> None:
        """Drop translations: the kernel has run."""
        self.memory.forget()

    def members(self, kvm: int) -> tuple[int, int, int | None]:
        """Return `arch.pgtable`, `arch.l1_ptcr` and `mmu_invalidate_seq` of a VM."""
        pgtable, ptcr, sequence = self._kvm.read(self.memory, kvm)
        return pgtable or 0, ptcr or 0, sequence

    def slot_range(self, memslot: int) -> tuple[int, int, int]:
        """Return `base_gfn`, `npages` and the address of the rmap array of a memslot."""
        base, npages, array = self._slot.read_numbers(self.memory, memslot)
        return base, npages, array

    def vcpu(self, vcpu: int, *registers: int) -> tuple[int, list[int]]:
        """Return the `struct kvm` of a vCPU and some of the guest's general registers."""
        assert self._vcpu is not None  # see `knows_vcpus`
        kvm, gprs = (vcpu + offset for offset in self._vcpu)
        return self.memory.u64(kvm), [
            self.memory.u64(gprs + _WORD * number) for number in registers
        ]

    def leaf(self, tree: RadixTree, address: int) -> tuple[int, int, int]:
        """Return `(pte, shift, place)` of the leaf that covers `address`, zeros without one.

        `shift` is 0 for a base page (as `RadixTree.find`), `place` the physical
        address of the PTE.
        """
        root = self.memory.translate(tree.root)
        found = walk(self.memory.physical, RadixRoot(root, ROOT_BITS), address)
        if found.leaf is None:
            return (*NO_LEAF, 0)
        shift = found.leaf.shift
        place = found.steps[-1].entry_address
        return found.leaf.pte, 0 if shift == self.kernel.page_shift else shift, place

    def guest_leaf(self, vm: VmMirror, tree: RadixTree, n_gpa: int) -> tuple[int, int] | None:
        """Return the guest's own leaf for `n_gpa` and the guest real address that it leads to.

        PTE 0 if there is none. None if it cannot be told: the guest has several vCPUs, and
        may have changed its tree since the kernel walked it, or its table is not mapped.
        """
        nested = vm.structs.get(tree.root)
        if not nested or self._alone is None:
            return None
        if self.memory.u32(vm.kvm.address + self._alone) != 1:
            return None
        (root,) = self._nested.read_numbers(self.memory, nested)
        found = walk(_GuestView(self.memory.physical, vm.kvm.pgtable), root, n_gpa)
        if isinstance(found.fault, UnreadableTable):
            return None
        return (0, 0) if found.leaf is None else (found.leaf.pte, found.leaf.real_address)

    def is_empty(self, tree: RadixTree) -> bool:
        """Say whether the root table of a tree has no entry."""
        return not any(self.memory.read(tree.root, _ROOT_BYTES))

    def chain(self, word_address: int) -> tuple[Chain | None, str | None]:
        """Return the chain of the rmap word at a kernel address, and what is wrong with it."""
        word = self.memory.u64(word_address)
        if not word:
            return None, None
        found = read_chain(self.memory, word, self.kernel.byteorder, address=word_address)
        trouble = found.problems[0].message if found.problems else None
        if found.form == FORM_EMPTY or not found.entries:
            return None, trouble
        return chain_of(FORM_NAMES[found.form], found.entries), trouble

    def used_words(self, array: int, first: int, count: int) -> set[int]:
        """Return which of `count` words from index `first` of an rmap array are not 0."""
        data = self.memory.read(array + _WORD * first, _WORD * count)
        return {first + at for at in range(count) if any(data[_WORD * at : _WORD * at + _WORD])}

    def new_entry(self, n_rmap: int) -> int:
        """Return the rmap word of the node that `struct rmap_nested **n_rmap` leads to."""
        return self.memory.u64(self.memory.u64(n_rmap) + RMAP_NESTED_SIZE - _WORD)

    def stack_argument(self, stack: int, number: int) -> int:
        """Return argument `number` (from 9) of a call whose caller's frame is at `stack`.

        ELFv2 ABI: the parameter save area starts 32 bytes above the stack pointer.
        """
        return self.memory.u64(stack + 32 + _WORD * (number - 1))


__all__ = ["FollowError", "Observer", "UnreadableMemoryError"]
