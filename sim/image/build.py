"""`build_image`: a State laid out as the memory of a kernel.

The image holds all that `read_state` follows: the kernel's page directory with
its vmalloc areas, `vm_list`, each `struct kvm` with its memslots, rmaps, host
tree and nested guests, and their shadow trees. Pages of the guests are not in it.
"""

from dataclasses import dataclass, replace

from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.state import KernelInfo, Leaves, Memslot, NestedGuest, Running, State, Vm
from nestscope.sim.image.arena import Arena, Vmalloc, linear
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.in_use import PartitionTable, build_vcpus
from nestscope.sim.image.kernel import ImageKernel
from nestscope.sim.image.memory import SparseMemory
from nestscope.sim.image.memslots import build_memslots
from nestscope.sim.image.nested import build_guest, link_guests
from nestscope.sim.image.rmap import build_rmap
from nestscope.sim.image.structures import Structures
from nestscope.sim.image.trees import GEOMETRY, build_tree

_LOCKED = {
    # qspinlock of powerpc (9f61521c7a28) and the generic one: bit 0 is "locked".
    "mmu_lock.rlock.raw_lock.val": 1,
    "mmu_lock.rlock.raw_lock.val.counter": 1,
    # arch_spinlock_t before: LOCK_TOKEN of processor 0.
    "mmu_lock.rlock.raw_lock.slock": 0x8000_0000,
}


@dataclass(frozen=True)
class Image:
    """Physical memory, the kernel that runs in it, and the State that it shows.

    `state` is the one that was laid out, with the addresses that the objects
    got and with memslots and nested guests in the order in which they are read.
    """

    memory: SparseMemory
    facts: ImageKernel
    types: Types
    state: State

    @property
    def kernel(self) -> Kernel:
        """The kernel, opened on this memory."""
        return self.facts.open(self.memory, self.types)


def build_image(
    state: State,
    types: Types,
    *,
    byteorder: ByteOrder = "little",
    base: int = 0,
    seed: int | None = None,
) -> Image:
    """Lay out `state` as memory of a kernel with the structures of `types`.

    `byteorder` is that of the kernel's data. The image starts at physical
    address `base`. With a `seed`, tables, list nodes and pages of vmalloc areas
    lie in random order, as after a long time of running; without, in order.
    The base page size is that of the State (4 or 64 KiB).

    Raises:
        ImageError: if no kernel could be in that state, or part of it is unknown.
        UnknownTypeError: if the types do not describe KVM's structures.
    """
    page_shift = state.kernel.page_shift
    if page_shift not in GEOMETRY:
        raise ImageError(f"a kernel with pages of shift {page_shift} has no radix geometry")
    if state.problems:
        raise ImageError("a State with problems is not known in full, so it cannot be laid out")
    return _Builder(types, byteorder, page_shift, Arena(base, seed)).build(state)


class _Builder:
    def __init__(self, types: Types, byteorder: ByteOrder, page_shift: int, arena: Arena) -> None:
        self.arena = arena
        self.order = prefix(byteorder)
        self.byteorder = byteorder
        self.page_shift = page_shift
        self.geometry = GEOMETRY[page_shift]
        self.vmalloc = Vmalloc(arena, page_shift)
        self.out = Structures(types, arena, byteorder)
        self.table = PartitionTable(self.out, arena)

    def build(self, state: State) -> Image:
        vms = tuple(self.vm(vm) for vm in state.vms)
        vms = tuple(self.table.shown(vm) for vm in vms)
        head = self.out.make("list_head", {})
        links = [self.out.at("kvm", vm.kvm, "vm_list") for vm in vms]
        self.out.ring(head, links)
        release = state.kernel.release or "unknown"
        pgd = build_tree(self.arena, self.vmalloc.leaves(), self.geometry)
        facts = ImageKernel(release, self.page_shift, self.byteorder, pgd, head, self.table.symbol)
        info = KernelInfo(release, self.page_shift)
        shown = State(state.source, info, vms)
        return Image(self.arena.memory(), facts, self.out.types, shown)

    def vm(self, vm: Vm) -> Vm:
        """Lay out one VM; return it with the addresses that it got."""
        if vm.radix is None or vm.mmu_lock_held is None:
            raise ImageError("whether a VM uses radix, and whether its lock is held, is not known")
        if not vm.radix and (vm.nested or len(vm.host_leaves) or any(map(_chains, vm.memslots))):
            raise ImageError("a VM with a hash page table has no host leaves and no nested rmap")
        kvm = self.out.make(
            "kvm",
            {"arch.lpid": vm.lpid, "arch.radix": int(vm.radix), "arch.l1_ptcr": vm.l1_ptcr},
        )
        if vm.mmu_lock_held:
            self.lock(kvm)
        slots = tuple(
            self.memslot(slot)
            for slot in sorted(vm.memslots, key=lambda slot: (slot.base_gfn, slot.id))
        )
        build_memslots(self.out, kvm, slots)
        vm = replace(vm, kvm=kvm, memslots=slots)
        if not vm.radix:
            return vm
        self.out.fill("kvm", kvm, {"arch.pgtable": self.tree(vm.host_leaves)})
        return self.guests(vm)

    def lock(self, kvm: int) -> None:
        """Hold `mmu_lock`, in the form that these types have."""
        names = [name for name in _LOCKED if self.out.types.has("kvm", name)]
        if not names:
            raise ImageError("these types have no mmu_lock of a form that is known")
        # `val` is a number on powerpc and has a member in the generic lock: take the deepest.
        self.out.fill("kvm", kvm, {names[-1]: _LOCKED[names[-1]]})

    def memslot(self, slot: Memslot) -> Memslot:
        """Lay out the rmap of a memslot; return the slot with the array's address."""
        array = build_rmap(self.arena, self.vmalloc, slot, self.order)
        return replace(slot, rmap_array=array)

    def guests(self, vm: Vm) -> Vm:
        """Lay out nested guests and the vCPUs in them; return the VM with their addresses."""
        guests = tuple(
            self.nested(vm.kvm, guest) for guest in sorted(vm.nested, key=lambda each: each.l1_lpid)
        )
        orphans = tuple(self.nested(vm.kvm, guest) for guest in vm.orphans)
        link_guests(self.out, vm.kvm, [(each.l1_lpid, each.address or 0) for each in guests])
        before = (*sorted(vm.nested, key=lambda each: each.l1_lpid), *vm.orphans)
        moved = {
            old.address: new.address or 0
            for old, new in zip(before, (*guests, *orphans), strict=True)
        }
        if any(each.nested not in moved for each in vm.running or ()):
            raise ImageError("a vCPU is in a nested guest that the State does not have")
        running = tuple(Running(each.vcpu_id, moved[each.nested]) for each in vm.running or ())
        if running:
            build_vcpus(self.out, vm.kvm, running)
        return replace(vm, nested=guests, orphans=orphans, running=running)

    def nested(self, kvm: int, guest: NestedGuest) -> NestedGuest:
        """Lay out a nested guest; return it with its address and the root's."""
        placed = replace(guest, shadow_pgtable=self.tree(guest.leaves))
        self.table.add(guest, placed)
        return replace(placed, address=build_guest(self.out, kvm, placed))

    def tree(self, leaves: Leaves) -> int:
        """Lay out a tree; return the kernel address of its root."""
        return linear(build_tree(self.arena, leaves.columns, self.geometry))


def _chains(slot: Memslot) -> int:
    return len(slot.rmap)
