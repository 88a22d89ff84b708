"""`read_state`: the nested MMU of a kernel in memory, as a `State`."""

from contextlib import suppress
from functools import cached_property

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.forest import forest_leaves
from nestscope.decoders.in_use import InUseReader
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import ROOT_BITS, TREE_BITS, KernelMemory
from nestscope.decoders.kernel.memslots import MemslotReader, RawMemslot
from nestscope.decoders.kernel.symbols import UnknownSymbolError
from nestscope.decoders.kernel.vms import RawNested, RawVm, VmReader
from nestscope.decoders.rmap_array import read_rmap
from nestscope.decoders.sources.metered import MeteredMemory
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import (
    Chains,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Source,
    State,
    Vm,
)
from nestscope.decoders.trees import MAX_TABLE_BYTES, odd_tree_leaves

MAX_BYTES = 64 << 30
"""What one State may cost to read. A guest of 1 TiB with 4K pages costs 4 GiB."""


def read_state(physical: Memory, kernel: Kernel, source: Source) -> State:
    """Read everything once. To read again and again, keep a `StateReader`.

    Raises:
        UnknownTypeError: if the kernel's types do not describe KVM's structures.
    """
    return StateReader(kernel, source, physical).read()


class StateReader:
    """Reads the State of one kernel, many times a second.

    Layouts and symbols are looked up once; memory is read afresh each time.
    The kernel should be stopped meanwhile: what changes between two reads shows
    as a mixed state or as a problem.
    """

    def __init__(
        self,
        kernel: Kernel,
        source: Source,
        physical: Memory | None = None,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Prepare; `physical` replaces the memory that the kernel was opened with.

        Each State costs at most `max_bytes` (see `MeteredMemory`).

        Raises:
            UnknownTypeError: if the kernel's types do not describe KVM's structures.
                Without kvm they need not; `read` raises it if kvm is loaded later.
        """
        self._kernel = kernel
        self._source = source
        memory = kernel.memory.physical if physical is None else physical
        self._physical = MeteredMemory(memory, max_bytes)
        self._memory = KernelMemory(self._physical, kernel.memory.pgd, kernel.byteorder)
        self._problems: list[Problem] = []
        with suppress(UnknownSymbolError):
            kernel.symbol("vm_list")
            # Looked up now, so that a missing type is an error and not a problem later.
            _ = self._vms, self._memslots, self._in_use

    @cached_property
    def _vms(self) -> VmReader:
        return VmReader(self._kernel.types, self._memory)

    @cached_property
    def _memslots(self) -> MemslotReader:
        return MemslotReader(self._kernel.types, self._memory)

    @cached_property
    def _in_use(self) -> InUseReader:
        return InUseReader(self._kernel, self._memory, self._vms)

    def read(self) -> State:
        """Read all VMs. What is unreadable or malformed is in the State's problems."""
        self._memory.forget()
        self._physical.refill()
        self._problems = []
        addresses: list[int] = []
        try:
            head = self._vm_list()
        except UnknownSymbolError as error:
            self._problems.append(Problem("vms", str(error)))
        else:
            self._in_use.forget()
            addresses, problems = self._vms.addresses(head, "vms")
            self._problems += problems
        vms = tuple(self._vm(kvm, f"vms[{n}]") for n, kvm in enumerate(addresses))
        everything = (*self._kernel.problems, *self._problems)
        return State(self._source, self._kernel.info, vms, everything)

    def _vm_list(self) -> int:
        """Return the address of `vm_list`; kvm may have been loaded since the last time."""
        try:
            return self._kernel.symbol("vm_list").address
        except UnknownSymbolError:
            self._kernel.load_module_symbols()
            return self._kernel.symbol("vm_list").address

    def _vm(self, kvm: int, path: str) -> Vm:
        try:
            raw = self._vms.vm(kvm)
        except UnreadableMemoryError as error:
            self._problems.append(Problem(path, f"struct kvm: {error}", kvm))
            return Vm(kvm, None, None, None, None)
        if raw.radix is None:
            self._problems.append(
                Problem(f"{path}.radix", "this kernel has no kvm_arch.radix", kvm)
            )
        radix = None if raw.radix is None else raw.radix != 0
        memslots = self._vm_memslots(raw, bool(radix), f"{path}.memslots")
        host, nested = self._vm_trees(kvm, raw, path) if radix else (Leaves(), ())
        vm = Vm(
            kvm=kvm,
            lpid=raw.lpid,
            radix=radix,
            mmu_lock_held=self._vms.lock_held(raw),
            l1_ptcr=raw.l1_ptcr,
            memslots=memslots,
            host_leaves=host,
            nested=nested,
        )
        if not radix:
            return vm
        vm, problems = self._in_use.complete(vm, path, self._tree)
        self._problems += problems
        return vm

    def _vm_memslots(self, raw: RawVm, radix: bool, path: str) -> tuple[Memslot, ...]:
        if raw.memslots is None:
            self._problems.append(Problem(path, "this kernel keeps its memslots in unknown form"))
            return ()
        slots, problems = self._memslots.read(raw.memslots, path)
        self._problems += problems
        return tuple(self._memslot(slot, radix, f"{path}[{n}]") for n, slot in enumerate(slots))

    def _memslot(self, slot: RawMemslot, radix: bool, path: str) -> Memslot:
        # A hash-page-table VM keeps reverse maps of another format in the same array.
        chains = self._rmap(slot, f"{path}.rmap") if radix else Chains()
        return Memslot(
            slot.id, slot.base_gfn, slot.npages, slot.userspace_addr, slot.flags, slot.rmap, chains
        )

    def _rmap(self, slot: RawMemslot, path: str) -> Chains:
        if not slot.rmap:
            self._problems.append(Problem(path, "the memslot has no rmap array", slot.address))
            return Chains()
        chains, problems = read_rmap(
            self._memory,
            slot.rmap,
            slot.npages,
            slot.base_gfn,
            self._kernel.byteorder,
            path=path,
        )
        self._problems += problems
        return chains

    def _vm_trees(self, kvm: int, raw: RawVm, path: str) -> tuple[Leaves, tuple[NestedGuest, ...]]:
        """Return the host's leaves and the nested guests; all trees are read together."""
        guests, problems = self._vms.nested(kvm, raw, f"{path}.nested")
        self._problems += problems
        roots = [(raw.pgtable, f"{path}.host_leaves")]
        roots += [
            (guest.shadow_pgtable, f"{path}.nested[{n}].leaves")
            for n, (_, guest) in enumerate(guests)
            if guest is not None
        ]
        host, *shadows = self._trees(roots)
        leaves = iter(shadows)
        return host, tuple(
            _nested(lpid, guest, Leaves() if guest is None else next(leaves))
            for lpid, guest in guests
        )

    def _trees(self, pgds: list[tuple[int | None, str]]) -> list[Leaves]:
        """Return the leaves of trees, given the kernel address of each root and its path."""
        roots = [self._root(pgd, path) for pgd, path in pgds]
        read = forest_leaves(
            self._physical,
            [root for root in roots if root is not None],
            ROOT_BITS,
            TREE_BITS,
            MAX_TABLE_BYTES,
        )
        together = iter(read)
        found = []
        for root, (_, path) in zip(roots, pgds, strict=True):
            leaves = Leaves() if root is None else next(together)
            if root is not None and leaves is None:
                leaves, problems = odd_tree_leaves(self._physical, root, ROOT_BITS, path=path)
                self._problems += problems
            found.append(Leaves() if leaves is None else leaves)
        return found

    def _tree(self, pgd: int, path: str) -> Leaves:
        return self._trees([(pgd, path)])[0]

    def _root(self, pgd: int | None, path: str) -> int | None:
        """Return the physical address of the root table at kernel address `pgd`."""
        if not pgd:
            self._problems.append(Problem(path, "there is no root table (NULL)"))
            return None
        try:
            return self._memory.translate(pgd)
        except UnreadableMemoryError as error:
            self._problems.append(Problem(path, f"the root table: {error}", pgd))
            return None


def _nested(lpid: int, raw: RawNested | None, leaves: Leaves) -> NestedGuest:
    if raw is None:
        return NestedGuest(lpid, None, None, None, None, None)
    return NestedGuest(
        l1_lpid=lpid,
        shadow_lpid=raw.shadow_lpid,
        refcnt=raw.refcnt,
        l1_gr_to_hr=raw.l1_gr_to_hr,
        process_table=raw.process_table,
        shadow_pgtable=raw.shadow_pgtable,
        leaves=leaves,
        address=raw.address,
    )
