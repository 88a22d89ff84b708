"""Single objects of a kernel, read with few reads: VMs, memslots, one chain, one walk.

`read_state` reads everything; a command that was asked for one thing reads that.
"""

from dataclasses import dataclass

from nestscope.decoders.chains import ChainReading, read_chain
from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import LINEAR_END, KernelMemory
from nestscope.decoders.kernel.memslots import MemslotReader, RawMemslot
from nestscope.decoders.kernel.symbols import UnknownSymbolError
from nestscope.decoders.kernel.vms import RawNested, RawVm, VmReader
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Problem
from nestscope.decoders.words.pde import is_pde
from nestscope.plugin.gdb.worker.nodes import NodeMemory

_VMALLOC_END = 0xC00A_0000_0000_0000  # RADIX_KERN_MAP_SIZE after RADIX_VMALLOC_START
_WORD = 8


class LookupFailedError(NestscopeError):
    """What was asked for does not exist: one sentence says why."""


class StableTopMemory(KernelMemory):
    """Kernel memory that remembers the two upper levels of the vmalloc area for good.

    The kernel never takes a table of that area away again, nor puts another in its
    place, above the level that maps 2 MiB: `vmap_pages_range_noflush` and
    `__vmalloc_node_range` go up to PMD_SHIFT (mm/vmalloc.c), and `vunmap_range` leaves
    tables in place. So after a stop a translation costs two reads, not four.
    """

    def __init__(self, physical: Memory, kernel: Kernel) -> None:
        super().__init__(physical, kernel.memory.pgd, kernel.byteorder)
        self._top: dict[tuple[int, int], int] = {}
        self._upper = {kernel.memory.pgd}

    def _entry(self, address: int, table: int, bits: int, index: int) -> int:
        if table not in self._upper or not LINEAR_END <= address < _VMALLOC_END:
            return super()._entry(address, table, bits, index)
        word = self._top.get((table, index))
        if word is None:
            word = super()._entry(address, table, bits, index)
            if is_pde(word):
                self._top[table, index] = word
        return word


@dataclass(frozen=True)
class VmAt:
    """A VM: its number in `vm_list`, the address of its `struct kvm`, and its members."""

    number: int
    address: int
    raw: RawVm


@dataclass(frozen=True)
class ChainAt:
    """A chain and where it hangs: gfn, memslot, address of the rmap word, the word."""

    gfn: int
    memslot: RawMemslot
    address: int
    word: int
    reading: ChainReading


class KernelView:
    """Reads single objects of one kernel. `refresh` after the target ran."""

    def __init__(self, kernel: Kernel, physical: Memory) -> None:
        self.kernel = kernel
        self.physical = physical
        self.memory = StableTopMemory(physical, kernel)
        self.problems: list[Problem] = []
        self._vms: tuple[VmReader, MemslotReader] | None = None

    def refresh(self) -> None:
        """Forget translations and problems."""
        self.memory.forget()
        self.problems = []

    @property
    def vm_reader(self) -> VmReader:
        """Reads `struct kvm`; its types are needed from here on."""
        return self._readers[0]

    @property
    def _readers(self) -> tuple[VmReader, MemslotReader]:
        if self._vms is None:
            types = self.kernel.types
            self._vms = VmReader(types, self.memory), MemslotReader(types, self.memory)
        return self._vms

    def addresses(self) -> list[int]:
        """Return the address of every `struct kvm`, in the order of `vm_list`.

        Raises:
            LookupFailedError: if kvm is not loaded.
        """
        try:
            head = self.kernel.symbol("vm_list").address
            self.memory.read(head, _WORD)
        except (UnknownSymbolError, UnreadableMemoryError):
            # kvm was loaded, or loaded again elsewhere, since the symbols were read.
            head = self._vm_list_again()
        found, problems = self.vm_reader.addresses(head, "vms")
        self.problems += problems
        return found

    def _vm_list_again(self) -> int:
        self.kernel.load_module_symbols()
        try:
            return self.kernel.symbol("vm_list").address
        except UnknownSymbolError as error:
            known = ", ".join(self.kernel.module_symbols)
            raise LookupFailedError(
                f"kvm's symbols are not there, only those of {known}"
                if known
                else "the kvm modules are not loaded in this kernel, so there is no VM: "
                "load kvm_hv and start one"
            ) from error

    def vms(self) -> list[VmAt]:
        """Return all VMs whose `struct kvm` can be read; the others are in `problems`."""
        found: list[VmAt] = []
        for number, address in enumerate(self.addresses()):
            try:
                found.append(VmAt(number, address, self.vm_reader.vm(address)))
            except UnreadableMemoryError as error:
                self.problems.append(Problem(f"vms[{number}]", str(error), address))
        return found

    def vm(self, chosen: int | None) -> VmAt:
        """Return VM `chosen` (a number from 0, or the address of `struct kvm`), or the only one.

        Raises:
            LookupFailedError: if there is none, or a choice is needed.
        """
        addresses = self.addresses()
        if not addresses:
            raise LookupFailedError("there is no VM in this kernel")
        if chosen is None and len(addresses) > 1:
            raise LookupFailedError(
                f"there are {len(addresses)} VMs: choose one with --vm 0 and up (`nested vms`)"
            )
        number = chosen or 0
        if number in addresses:
            number = addresses.index(number)
        if not 0 <= number < len(addresses):
            raise LookupFailedError(
                f"there is no VM {number:#x}: they are 0 to {len(addresses) - 1} (`nested vms`)"
            )
        address = addresses[number]
        return VmAt(number, address, self.vm_reader.vm(address))

    def radix_vm(self, chosen: int | None) -> VmAt:
        """Return a VM as `vm` does, and make sure that it has a nested rmap.

        Raises:
            LookupFailedError: as `vm`; or the VM uses a hash page table.
        """
        vm = self.vm(chosen)
        if not vm.raw.radix:
            raise LookupFailedError(
                f"VM {vm.number} at {vm.address:#x} uses a hash page table (HPT): it has no radix "
                "tree, no nested guests and no nested rmap"
            )
        return vm

    def slots(self, vm: VmAt) -> list[RawMemslot]:
        """Return the memslots of a VM by base_gfn."""
        if vm.raw.memslots is None:
            raise LookupFailedError("this kernel keeps its memslots in a form that is not known")
        slots, problems = self._readers[1].read(vm.raw.memslots, f"vms[{vm.number}].memslots")
        self.problems += problems
        return slots

    def slot_of(self, vm: VmAt, gfn: int) -> RawMemslot:
        """Return the memslot that holds a gfn.

        Raises:
            LookupFailedError: if none does.
        """
        slots = self.slots(vm)
        for slot in slots:
            if 0 <= gfn - slot.base_gfn < slot.npages:
                return slot
        known = ", ".join(
            f"{slot.base_gfn:#x} to {slot.base_gfn + slot.npages - 1:#x}" for slot in slots
        )
        raise LookupFailedError(
            f"gfn {gfn:#x} is in no memslot of VM {vm.number} (they hold {known or 'nothing'})"
        )

    def nested(self, vm: VmAt) -> list[tuple[int, RawNested | None]]:
        """Return `(l1_lpid, guest)` of each nested guest of a radix VM."""
        guests, problems = self.vm_reader.nested(vm.address, vm.raw, f"vms[{vm.number}].nested")
        self.problems += problems
        return guests

    def chain(self, vm: VmAt, gfn: int) -> ChainAt:
        """Read the chain of one gfn.

        Raises:
            LookupFailedError: if no memslot holds it, or the memslot has no rmap.
            UnreadableMemoryError: if the rmap word cannot be read.
        """
        slot = self.slot_of(vm, gfn)
        if not slot.rmap:
            raise LookupFailedError(f"memslot {slot.id} at {slot.address:#x} has no rmap array")
        return self.chain_at(gfn, slot, slot.rmap + _WORD * (gfn - slot.base_gfn))

    def chain_at(self, gfn: int, slot: RawMemslot, address: int) -> ChainAt:
        """Read the chain whose rmap word is at kernel `address`."""
        word = self.memory.u64(address)
        nodes = NodeMemory(self.memory, self.physical)
        reading = read_chain(
            nodes, word, self.kernel.byteorder, path=f"rmap[gfn {gfn:#x}]", address=address
        )
        return ChainAt(gfn, slot, address, word, reading)
