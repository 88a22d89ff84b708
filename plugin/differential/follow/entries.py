"""From a stop at a function's entry to the call: which VM, tree, slot its arguments name."""

from nestscope.decoders.compare import Difference
from nestscope.plugin.differential.follow.checks import Checker
from nestscope.plugin.differential.follow.guest_calls import NestedTlbie, SetPartitionTable
from nestscope.plugin.differential.follow.leaf_calls import (
    LEVEL_SHIFTS,
    CreatePte,
    FreeTree,
    HandleSetRc,
    KernelCall,
    UnmapPte,
    UpdateRcList,
)
from nestscope.plugin.differential.follow.mirror import VmMirror
from nestscope.plugin.differential.follow.tracer import Stop
from nestscope.plugin.differential.follow.vms import Mirrors
from nestscope.sim.create import Entry
from nestscope.sim.kvm import Memslot
from nestscope.sim.tree import RadixTree

_INT = 0xFFFF_FFFF
_N_RMAP = 9  # the ninth argument of kvmppc_create_pte, the first on the stack


class Unmatched(Exception):  # noqa: N818  no error of nestscope's
    """A call names an object that the mirror cannot have; `difference` says which."""

    def __init__(self, path: str, expected: str, observed: str) -> None:
        super().__init__(path)
        self.difference = Difference(path, expected, observed)


class Entries:
    """Makes a call of each stop at an entry.

    `make` returns None for calls of VMs that are not followed, and raises
    `Unmatched` where a call of a followed VM has an argument that fits nothing.
    """

    def __init__(self, mirrors: Mirrors, checker: Checker) -> None:
        self._mirrors = mirrors
        self._checker = checker
        self._observer = checker.observer

    def make(self, stop: Stop) -> KernelCall | None:
        """Return the call that `stop` is the entry of.

        Raises:
            Unmatched: see the class.
            UnreadableMemoryError: if its arguments cannot be read.
        """
        made: KernelCall | None = None
        match stop.function:
            case "kvmppc_create_pte":
                made = self._create_pte(stop)
            case "kvmppc_unmap_pte":
                made = self._unmap_pte(stop)
            case "kvmppc_hv_handle_set_rc":
                made = self._set_rc(stop)
            case "kvmhv_update_nest_rmap_rc_list":
                made = self._update_rc(stop)
            case "kvmppc_free_pgtable_radix":
                made = self._free_tree(stop)
            case "kvmhv_do_nested_tlbie":
                made = self._tlbie(stop)
            case "kvmhv_set_partition_table":
                made = self._partition_table(stop)
        return made

    def _tree(self, vm: VmMirror, found: RadixTree | None, what: str) -> RadixTree:
        if found is None:
            raise Unmatched(f"{vm.path}.{what}", "a tree of this VM", "none that it has")
        return found

    def _create_pte(self, stop: Stop) -> KernelCall | None:
        vm = self._mirrors.vm(stop.argument(1))
        if vm is None:
            return None
        root, lpid = stop.argument(2), stop.argument(7) & _INT
        if root != vm.kvm.pgtable.root and root not in vm.structs:
            self._mirrors.refresh_nested(vm)
        tree = self._tree(vm, vm.tree_by_root(root), f"kvmppc_create_pte.pgtable={root:#x}")
        if vm.tree_by_lpid(lpid) is not tree:
            raise Unmatched(f"{vm.name_of(tree)}.lpid", "the tree's own", str(lpid))
        # pte_t holds the word as it lies in memory, big-endian.
        pte = int.from_bytes(stop.argument(3).to_bytes(8, "little"), "big")
        shift = LEVEL_SHIFTS.get(stop.argument(5) & _INT, vm.kvm.page_shift)
        _, _, sequence = self._observer.members(vm.kvm.address)
        refused = sequence is not None and sequence != stop.argument(6)
        entry = self._entry(vm, stop) if stop.argument(8) else None
        address = stop.argument(4)
        return CreatePte(vm, self._checker, tree, pte, address, shift, entry, refused)

    def _entry(self, vm: VmMirror, stop: Stop) -> Entry:
        slot, index = self._slot_of_word(vm, stop.argument(8))
        n_rmap = self._observer.stack_argument(stop.stack, _N_RMAP)
        return slot, index, self._observer.new_entry(n_rmap)

    def _slot_of_word(self, vm: VmMirror, address: int) -> tuple[Memslot, int]:
        found = vm.slot_of_word(address)
        if found is None:
            self._mirrors.refresh_slots(vm)
            found = vm.slot_of_word(address)
        if found is None:
            raise Unmatched(f"{vm.path}.memslots", "an rmap word of a memslot", f"{address:#x}")
        return found

    def _unmap_pte(self, stop: Stop) -> KernelCall | None:
        vm = self._mirrors.vm(stop.argument(1))
        if vm is None:
            return None
        lpid = stop.argument(6) & _INT
        if vm.tree_by_lpid(lpid) is None:
            self._mirrors.refresh_nested(vm)
        tree = self._tree(vm, vm.tree_by_lpid(lpid), f"kvmppc_unmap_pte.lpid={lpid}")
        place = self._observer.memory.translate(stop.argument(2))
        shift = stop.argument(4) & _INT
        slot = self._memslot(vm, stop.argument(5))
        return UnmapPte(vm, self._checker, tree, place, stop.argument(3), shift, slot)

    def _memslot(self, vm: VmMirror, address: int) -> Memslot | None:
        """Return the model's memslot for a `struct kvm_memory_slot`, which may be an old one."""
        if not address:
            return None
        base, npages, array = self._observer.slot_range(address)
        for slot in vm.kvm.memslots:
            if slot.rmap_array == array and slot.base_gfn == base:
                return slot
        known = next((slot for slot in vm.kvm.memslots if slot.rmap_array == array), None)
        old = Memslot(slot=-1, base_gfn=base, npages=npages, userspace_addr=0, flags=0, array=array)
        if known is not None:
            old.rmap = known.rmap
        return old

    def _set_rc(self, stop: Stop) -> KernelCall | None:
        vm = self._mirrors.vm(stop.argument(1))
        if vm is None:
            return None
        tree: RadixTree | None = vm.kvm.pgtable
        if stop.argument(2) & 0xFF:
            guest = vm.kvm.nested.get(stop.argument(5) & _INT)
            tree = None if guest is None else guest.shadow
        writing = bool(stop.argument(3) & 0xFF)
        return HandleSetRc(vm, self._checker, tree, stop.argument(4), writing)

    def _update_rc(self, stop: Stop) -> KernelCall | None:
        vm = self._mirrors.vm(stop.argument(1))
        if vm is None:
            return None
        slot, index = self._slot_of_word(vm, stop.argument(2))
        clear, to_set, hpa, nbytes = (stop.argument(number) for number in (3, 4, 5, 6))
        if to_set:
            path = f"{vm.path}.kvmhv_update_nest_rmap_rc_list.set"
            raise Unmatched(path, "0x0 (no caller sets bits)", f"{to_set:#x}")
        return UpdateRcList(vm, self._checker, slot, index, clear, hpa, nbytes)

    def _free_tree(self, stop: Stop) -> KernelCall | None:
        vm = self._mirrors.vm(stop.argument(1))
        if vm is None:
            return None
        tree = vm.tree_by_root(stop.argument(2))
        # One that lost the race to be added (kvmhv_get_nested) was never anybody's.
        return None if tree is None else FreeTree(vm, self._checker, tree)

    def _tlbie(self, stop: Stop) -> KernelCall | None:
        kvm, (instruction, rs, rb) = self._observer.vcpu(stop.argument(1), 4, 5, 6)
        vm = self._mirrors.vm(kvm)
        if vm is None:
            return None
        return NestedTlbie(vm, self._checker, instruction, rs, rb)

    def _partition_table(self, stop: Stop) -> KernelCall | None:
        kvm, (ptcr,) = self._observer.vcpu(stop.argument(1), 4)
        vm = self._mirrors.vm(kvm)
        return None if vm is None else SetPartitionTable(vm, self._checker, ptcr)
