"""What the processors use: vCPUs in nested guests, and partition table entries.

The idr says which nested guests the kernel finds; a vCPU may still be in one that it
does not find any more, and the partition table says which tree hardware walks for it.
"""

from collections.abc import Callable
from dataclasses import replace

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.partition import PartitionTableReader
from nestscope.decoders.kernel.vcpus import VcpuReader
from nestscope.decoders.kernel.vms import VmReader
from nestscope.decoders.state import Leaves, NestedGuest, Problem, Vm

MAX_LPID = 4095
"""`KVM_MAX_NESTED_GUESTS`: the partition table of a guest has no more entries."""

ReadTree = Callable[[int, str], Leaves]
"""Reads the leaves of the tree whose root is at a kernel address; the path is for problems."""


class InUseReader:
    """Adds to a VM what its vCPUs and the hardware use of it."""

    def __init__(self, kernel: Kernel, memory: KernelMemory, vms: VmReader) -> None:
        self._vcpus = VcpuReader(kernel.types, memory)
        self._table = PartitionTableReader(kernel, memory)
        self._vms = vms

    def forget(self) -> None:
        """Look for the partition table anew."""
        self._table.forget()

    def complete(self, vm: Vm, path: str, read_tree: ReadTree) -> tuple[Vm, list[Problem]]:
        """Return the VM with `running`, `orphans` and each `shadow_pate`, and what is wrong."""
        running, problems = self._vcpus.running(vm.kvm, f"{path}.running")
        known = {guest.address for guest in vm.nested}
        orphans: list[NestedGuest] = []
        for address in dict.fromkeys(each.nested for each in running or ()):
            if address not in known:
                where = f"{path}.orphans[{len(orphans)}]"
                found = self._orphan(address, where, read_tree, problems)
                if found is not None:
                    orphans.append(found)
        return replace(
            vm,
            running=running,
            nested=tuple(
                self._with_pate(guest, f"{path}.nested[{n}]", problems)
                for n, guest in enumerate(vm.nested)
            ),
            orphans=tuple(
                self._with_pate(guest, f"{path}.orphans[{n}]", problems)
                for n, guest in enumerate(orphans)
            ),
        ), problems

    def _orphan(
        self, address: int, path: str, read_tree: ReadTree, problems: list[Problem]
    ) -> NestedGuest | None:
        try:
            raw = self._vms.guest(address)
        except UnreadableMemoryError as error:
            problems.append(Problem(path, f"struct kvm_nested_guest: {error}", address))
            return None
        return NestedGuest(
            raw.l1_lpid,
            raw.shadow_lpid,
            raw.refcnt,
            raw.l1_gr_to_hr,
            raw.process_table,
            raw.shadow_pgtable,
            read_tree(raw.shadow_pgtable, f"{path}.leaves"),
            address,
        )

    def _with_pate(self, guest: NestedGuest, path: str, problems: list[Problem]) -> NestedGuest:
        lpid = guest.shadow_lpid
        if lpid is None or not 0 <= lpid <= MAX_LPID:
            return guest
        entry, wrong = self._table.entry(lpid, f"{path}.shadow_pate")
        problems += wrong
        return replace(guest, shadow_pate=entry)
