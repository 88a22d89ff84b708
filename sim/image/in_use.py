"""vCPUs that are in a nested guest, and the partition table of the host."""

from collections.abc import Sequence
from dataclasses import replace

from nestscope.decoders.audit.guests import shadow_dw0
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.state import NestedGuest, Running, Vm
from nestscope.decoders.words.pate import PATE_SIZE
from nestscope.sim.image.arena import Arena, linear
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.nested import build_xarray
from nestscope.sim.image.structures import Structures

LPID_BITS = 12
"""`mmu_lpid_bits` on POWER9: log2 of the entries of `partition_tb`."""


def build_vcpus(out: Structures, kvm: int, running: Sequence[Running]) -> None:
    """Lay out the vCPUs that are in a nested guest, and link them to the VM."""
    vcpus = {
        number: out.make("kvm_vcpu", {"vcpu_id": each.vcpu_id, "arch.nested": each.nested})
        for number, each in enumerate(running)
    }
    if out.types.has("kvm", "vcpu_array.xa_head"):
        out.fill("kvm", kvm, {"vcpu_array.xa_head": build_xarray(out, vcpus)})
    else:
        out.fill("kvm", kvm, {f"vcpus[{number}]": vcpu for number, vcpu in vcpus.items()})


class PartitionTable:
    """The partition table of a host on bare metal (`partition_tb`).

    An entry that the State does not tell is what `kvmhv_set_nested_ptbl` writes.
    """

    def __init__(self, out: Structures, arena: Arena) -> None:
        self._arena = arena
        self._entries: dict[int, tuple[int, int]] = {}
        self._table = linear(arena.region(PATE_SIZE << LPID_BITS).start)
        self.symbol = linear(arena.allocate(8))
        arena.write(self.symbol - LINEAR_START, self._table.to_bytes(8, out.byteorder))

    def add(self, before: NestedGuest, laid_out: NestedGuest) -> None:
        """Set the entry of a nested guest; its root moved when it was laid out.

        Raises:
            ImageError: if the table has no entry for its LPID, or its root is not known.
        """
        lpid, root = laid_out.shadow_lpid, laid_out.shadow_pgtable
        if lpid is None or not 0 <= lpid < 1 << LPID_BITS or root is None:
            raise ImageError(f"the partition table has no entry for the shadow_lpid {lpid}")
        dw0, dw1 = shadow_dw0(root), laid_out.process_table or 0
        if before.shadow_pate is not None:
            leads_to_root = before.shadow_pate[0] == shadow_dw0(before.shadow_pgtable or 0)
            dw0 = dw0 if leads_to_root else before.shadow_pate[0]
            dw1 = before.shadow_pate[1]
        self._entries[lpid] = dw0, dw1
        data = dw0.to_bytes(8, "big") + dw1.to_bytes(8, "big")
        self._arena.write(self._table + lpid * PATE_SIZE - LINEAR_START, data)

    def shown(self, vm: Vm) -> Vm:
        """Return a VM with the entries as they are when all are set."""
        return replace(
            vm,
            nested=tuple(self._shown(guest) for guest in vm.nested),
            orphans=tuple(self._shown(guest) for guest in vm.orphans),
        )

    def _shown(self, guest: NestedGuest) -> NestedGuest:
        lpid = guest.shadow_lpid
        return guest if lpid is None else replace(guest, shadow_pate=self._entries[lpid])
