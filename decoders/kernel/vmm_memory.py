"""A guest's memory as its VMM sees it: guest real address to memslot to user page table.

`kvm_read_guest` goes this way too. It reaches pages that the host's tree for the
guest has no leaf for, because the guest itself never touched them.
"""

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.memory import (
    LINEAR_END,
    LINEAR_START,
    ROOT_BITS,
    KernelMemory,
)
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.radix import ISA, RadixRoot, walk
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Vm

_PIECE = 4096
_MAX_READ = 256 << 20


class VmmMemory:
    """Bytes at guest real addresses. Satisfies `Memory`.

    Pages that the VMM has not touched, or that are swapped out, cannot be read.
    """

    def __init__(self, physical: Memory, root: RadixRoot, vm: Vm, page_shift: int) -> None:
        """Translate with the user tree at `root` (physical) and the slots of `vm`."""
        self._physical = physical
        self._root = root
        self._vm = vm
        self._page_shift = page_shift

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at guest real `address`.

        Raises:
            UnreadableMemoryError: outside the slots, or where the VMM has no page.
        """
        if not 0 <= length <= _MAX_READ:
            raise UnreadableMemoryError(address, length, "no such length")
        parts: list[bytes] = []
        while length:
            piece = min(length, _PIECE - address % _PIECE)
            parts.append(self._physical.read(self._translate(address), piece))
            address += piece
            length -= piece
        return b"".join(parts)

    def _translate(self, gpa: int) -> int:
        gfn = gpa >> self._page_shift
        for memslot in self._vm.memslots:
            if 0 <= gfn - memslot.base_gfn < memslot.npages and memslot.userspace_addr is not None:
                hva = memslot.userspace_addr + gpa - (memslot.base_gfn << self._page_shift)
                found = walk(self._physical, self._root, hva, ISA)
                if found.leaf is None:
                    why = f"the VMM maps no page at {hva:#x}: {found.fault}"
                    raise UnreadableMemoryError(gpa, 1, why)
                return found.leaf.real_address
        raise UnreadableMemoryError(gpa, 1, "no memslot of the guest holds it")


class VmmReader:
    """Finds the user tree of a VM's VMM: `kvm->mm->pgd`, of the kernel's own geometry."""

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        """Look the layouts up; a kernel whose types do not tell has no such way."""
        self._memory = memory
        known = types.has("kvm", "mm") and types.has("mm_struct", "pgd")
        self._places = (
            (types.offset("kvm", "mm"), types.offset("mm_struct", "pgd")) if known else None
        )

    def memory_of(self, physical: Memory, vm: Vm, page_shift: int) -> VmmMemory | None:
        """Return the guest's memory through its VMM, None where that way is not known.

        Raises:
            UnreadableMemoryError: if `struct kvm` or `struct mm_struct` cannot be read.
        """
        if self._places is None:
            return None
        mm = self._memory.u64(vm.kvm + self._places[0])
        pgd = self._memory.u64(mm + self._places[1])
        if not LINEAR_START <= pgd < LINEAR_END:
            return None
        return VmmMemory(physical, RadixRoot(pgd - LINEAR_START, ROOT_BITS), vm, page_shift)
