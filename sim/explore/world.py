"""The world that the paths share: one VM, its guest's tables, and vCPUs in nested guests."""

import pickle
from collections.abc import Callable, Hashable

from nestscope.decoders import state as st
from nestscope.sim import notifier
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import Write
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.invariants import Violation, violations
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.model_state import vm_state
from nestscope.sim.nested import set_partition_table
from nestscope.sim.operations import Operation
from nestscope.sim.steps import GracePeriod, Mutex, Steps, drain
from nestscope.sim.tree import RadixTree

PAGE_SHIFT = 16
FACTS = HostFacts(
    page_shift=PAGE_SHIFT,
    rc_by_hardware=False,
    hisi_flags_visible=True,
    pseries=False,
    reads_instructions=True,
)
"""A POWER9 host with 64K pages: R and C are set by the host, at an interrupt."""

TABLES_SLOT, DATA_SLOT = 0, 1
DATA = 0xA0_0000
DATA_SIZE = 0x40_0000
"""The guest's own tables are in one slot, what nested guests map in another: it can go."""

UAF = "UAF"
"""Rule beside I1 to I6: a path used kernel memory that had been freed."""


class ExploredWorld:
    """A VM before and while paths run on it.

    `written`: doublewords that the guest wrote into its tables, by guest real address.
    """

    def __init__(self) -> None:
        memory = HostMemory(PAGE_SHIFT)
        self.kvm = Kvm(FACTS, memory)
        notifier.register(self.kvm)
        self.guest = Guest(LAYOUT)
        self.written: dict[int, int] = {}
        self.add_slot(TABLES_SLOT, 0, DATA)
        self.add_slot(DATA_SLOT, DATA, DATA_SIZE)
        set_partition_table(self.kvm, LAYOUT.ptcr)

    def add_slot(self, slot: int, gpa: int, size: int) -> None:
        """Add a memslot; sizes in bytes."""
        memslot = Memslot(
            slot=slot,
            base_gfn=gpa >> PAGE_SHIFT,
            npages=size >> PAGE_SHIFT,
            userspace_addr=LAYOUT.userspace_addr + gpa,
            flags=0,
            array=self.kvm.new_address(),
        )
        self.kvm.memslots.append(memslot)

    def data_slot(self) -> Memslot:
        """Return the slot that the data pages are in."""
        return next(memslot for memslot in self.kvm.memslots if memslot.id == DATA_SLOT)

    def do(self, operation: Operation) -> None:
        """Let the guest change its own tables, before any path runs."""
        for event in self.guest.lower(operation):
            if not isinstance(event, Write):
                raise UnmodelledError(f"{operation} is a path, not a change of tables")
            drain(self.write(event.gpa, event.data))

    def write(self, gpa: int, data: bytes) -> Steps[None]:
        """Write guest memory, as a store of the guest does."""
        yield from self.kvm.memory.write(LAYOUT.userspace_addr + gpa, data)
        for at in range(0, len(data), 8):
            self.written[gpa + at] = int.from_bytes(data[at : at + 8], "big")

    def state(self) -> st.State:
        """Return the State of the VM now."""
        info = st.KernelInfo(None, PAGE_SHIFT)
        return st.State(
            st.Source("model", "explorer"), info, (vm_state(self.kvm, invalid_slots=True),)
        )

    def orphans(self) -> list[NestedGuest]:
        """Return the nested guests that a vCPU is in and the idr does not have."""
        found: list[NestedGuest] = []
        for nested in self.kvm.running.values():
            if self.kvm.nested.get(nested.l1_lpid) is not nested and nested not in found:
                found.append(nested)
        return found

    def violations(self) -> list[Violation]:
        """Return every broken invariant, and every use of freed memory as rule `UAF`."""
        kvm = self.kvm
        found = violations(self.state(), rc_by_hardware=False)
        return found + [
            Violation(UAF, "freed memory is not used", "error", text, kvm.address)
            for text in kvm.uses_after_free
        ]

    def fingerprint(self) -> Hashable:
        """Return everything that a path can reach from the VM."""
        kvm = self.kvm
        memory = kvm.memory
        return (
            kvm.l1_ptcr,
            kvm.radix,
            kvm.mmu_invalidate_seq,
            kvm.mmu_invalidate_in_progress,
            kvm.mn_active_invalidate_count,
            kvm.slots_lock.held,
            kvm.srcu.last,
            frozenset(kvm.srcu.readers),
            tuple(slot_fingerprint(memslot) for memslot in kvm.memslots),
            tuple(nested_fingerprint(kvm.nested[l1_lpid]) for l1_lpid in sorted(kvm.nested)),
            tuple(nested_fingerprint(nested) for nested in kvm.running.values()),
            frozenset(kvm.reserved),
            frozenset(kvm.lpids),
            tree_fingerprint(kvm.pgtable),
            frozenset(memory.pages.items()),
            tuple((shift, frozenset(blocks.items())) for shift, blocks in memory.huge.items()),
            memory.next_frame,
            frozenset(self.written.items()),
            tuple(kvm.uses_after_free),
        )

    def name_of(self, value: object) -> Hashable:
        """Name what a path may hold. Of the classes in `SINGLE` a world has one object."""
        match value:
            case NestedGuest():
                return "nested", nested_fingerprint(value)
            case RadixTree():
                return "tree", value.root
            case Memslot():
                return "slot", slot_fingerprint(value)
            case Mutex():
                return "mutex", value.name
            case GracePeriod():
                return "grace period", value.until
            case range():
                return value.start, value.stop
        return type(value).__name__ if type(value).__name__ in SINGLE else None


SINGLE = (
    "Kvm",
    "HostMemory",
    "Notifier",
    "NoInvalidation",
    "InvalidationEnded",
    "ExploredWorld",
    "Task",
)


def tree_fingerprint(tree: RadixTree) -> Hashable:
    """Return the leaves and tables of a tree."""
    return (
        frozenset(tree.ptes.items()),
        frozenset(tree.pmd_leaves.items()),
        frozenset(tree.pud_leaves.items()),
        frozenset(tree.pud_tables),
        frozenset(tree.pmd_tables),
        frozenset(tree.pte_tables),
    )


def slot_fingerprint(memslot: Memslot) -> Hashable:
    """Return a memslot with its chains."""
    chains = (
        (index, chain if isinstance(chain, int) else tuple(chain))
        for index, chain in memslot.rmap.items()
    )
    return (
        memslot.id,
        memslot.base_gfn,
        memslot.flags,
        memslot.rmap_array,
        memslot.freed,
        None if memslot.dirty is None else frozenset(memslot.dirty),
        frozenset(chains),
    )


def nested_fingerprint(nested: NestedGuest) -> Hashable:
    """Return a nested guest with its shadow tree."""
    return (
        nested.shadow.root,
        nested.l1_lpid,
        nested.shadow_lpid,
        nested.l1_gr_to_hr,
        nested.refcnt,
        nested.released,
        nested.tlb_lock.held,
        tree_fingerprint(nested.shadow),
    )


def copies_of(world: ExploredWorld) -> Callable[[], ExploredWorld]:
    """Return a function that gives a new copy of `world` each time."""
    image = pickle.dumps(world)  # loading one is the quickest deep copy there is

    def copy() -> ExploredWorld:
        loaded: ExploredWorld = pickle.loads(image)
        return loaded

    return copy
