"""The concurrent operations: what one vCPU, or the host, does in one go."""

from nestscope.decoders.words.ptcr import partition_table
from nestscope.sim.constants import RESUME_GUEST
from nestscope.sim.dirty import get_dirty_log
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.explore.engine import Task
from nestscope.sim.explore.world import DATA, DATA_SLOT, PAGE_SHIFT, ExploredWorld
from nestscope.sim.fault import Fault, nested_page_fault
from nestscope.sim.hardware import access_fault
from nestscope.sim.instantiate import radix_page_fault
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.memslots import set_memory_region
from nestscope.sim.nested import ENTRY_SIZE, put_nested
from nestscope.sim.operations import Tlbie
from nestscope.sim.steps import Steps
from nestscope.sim.tlbie import do_nested_tlbie, encode

ExplorerTask = Task[ExploredWorld]

L1_LPID = 1
N_GPA = 0x100_0000
GPA = DATA
PAGE = 1 << PAGE_SHIFT
AP_64K = 5
MAX_ATTEMPTS = 10
"""Faults that one access may take: each invalidation meanwhile costs one more."""


class InvalidationEnded:
    """Waits until no invalidation is under way (`mmu_invalidate_in_progress`).

    A fault that was told to try again would spin until then, to no effect.
    """

    __slots__ = ("kvm",)

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    def ready(self) -> bool:
        """Whether a leaf can be set."""
        return not self.kvm.mmu_invalidate_in_progress


def access(world: ExploredWorld, nested: NestedGuest, kind: str, n_gpa: int) -> Steps[None]:
    """A vCPU in a nested guest makes an access: each fault goes to the host, then again."""
    kvm = world.kvm
    for _ in range(MAX_ATTEMPTS):
        yield "the nested guest accesses the page"
        kvm.touch(nested, "the hardware walks the shadow tree")
        dsisr = access_fault(nested.shadow, n_gpa, kind, rc_by_hardware=False)
        if not dsisr:
            return
        outcome = yield from nested_page_fault(kvm, nested, Fault(kind, n_gpa, dsisr))
        if outcome.resume != RESUME_GUEST:
            return
        if kvm.writable_hva(GPA) is None:
            # Without memory it tries in vain, until its time is up and it leaves.
            return
        yield InvalidationEnded(kvm)
    raise UnmodelledError(f"the nested guest faults for ever at {n_gpa:#x}")


def enter(world: ExploredWorld, nested: NestedGuest) -> None:
    """Put a vCPU into a nested guest before anything runs: it holds a reference."""
    nested.refcnt += 1
    world.kvm.running[len(world.kvm.running)] = nested


def vcpu_in(world: ExploredWorld, l1_lpid: int) -> int:
    """Return a vCPU that is in nested guest `l1_lpid`."""
    running = world.kvm.running
    return next(vcpu for vcpu in running if running[vcpu].l1_lpid == l1_lpid)


def fault(kind: str, l1_lpid: int = L1_LPID) -> ExplorerTask:
    """A vCPU that is in the nested guest accesses the page, then leaves (H_ENTER_NESTED ends).

    The world must have it entered.
    """

    def path(world: ExploredWorld) -> Steps[None]:
        nested = world.kvm.running[vcpu_in(world, l1_lpid)]
        yield from access(world, nested, kind, N_GPA)
        yield "leave the nested guest"
        # Two that are in one nested guest are alike: any of them leaves.
        del world.kvm.running[vcpu_in(world, l1_lpid)]
        yield from put_nested(world.kvm, nested)

    other = "" if l1_lpid == L1_LPID else f" in nested guest {l1_lpid}"
    return Task(f"fault ({kind}){other}", path)


def tlbie(name: str, *, ric: int, is_: int) -> ExplorerTask:
    """The guest executes H_TLB_INVALIDATE for the page, the nested guest or all."""

    def path(world: ExploredWorld) -> Steps[None]:
        yield "begin the hypercall"
        epn = N_GPA >> 12 if is_ == 0 else 0
        lpid = 0 if is_ == 3 else L1_LPID
        yield from do_nested_tlbie(world.kvm, *encode(Tlbie(ric, 0, 1, is_, lpid, AP_64K, epn)))

    return Task(name, path)


def unmap() -> ExplorerTask:
    """The VMM gives the host page back: the MMU notifier."""

    def path(world: ExploredWorld) -> Steps[None]:
        yield "begin madvise"
        yield from world.kvm.memory.discard(LAYOUT.userspace_addr + GPA, PAGE)

    return Task("unmap", path)


def dirty_clear() -> ExplorerTask:
    """The VMM reads and clears the dirty log of the slot."""

    def path(world: ExploredWorld) -> Steps[None]:
        yield "begin KVM_GET_DIRTY_LOG"
        yield from get_dirty_log(world.kvm, DATA_SLOT)

    return Task("dirty clear", path)


def slot_delete() -> ExplorerTask:
    """The VMM deletes the memslot."""

    def path(world: ExploredWorld) -> Steps[None]:
        yield "begin KVM_SET_USER_MEMORY_REGION"
        yield from set_memory_region(world.kvm, DATA_SLOT, DATA, 0, 0, 0)

    return Task("slot delete", path)


def logging(*, on: bool) -> ExplorerTask:
    """The VMM turns dirty logging of the slot on or off (KVM_MR_FLAGS_ONLY)."""

    def path(world: ExploredWorld) -> Steps[None]:
        yield "begin KVM_SET_USER_MEMORY_REGION"
        slot = world.data_slot()
        size = slot.npages << PAGE_SHIFT
        yield from set_memory_region(world.kvm, slot.id, DATA, size, slot.userspace_addr, int(on))

    return Task(f"logging {'on' if on else 'off'}", path)


def drop(*, again: bool = False, of_all: bool = False) -> ExplorerTask:
    """The guest clears the partition table entry and invalidates it: the nested guest goes.

    `again`: it then gives the LPID out once more, with the same tree. `of_all`: it
    invalidates all LPIDs (IS=3) instead of the one.
    """
    arguments = encode(Tlbie(2, 0, 1, 3 if of_all else 2, 0 if of_all else L1_LPID, 0, 0))

    def path(world: ExploredWorld) -> Steps[None]:
        at = partition_table(world.kvm.l1_ptcr) + L1_LPID * ENTRY_SIZE
        old = world.written[at]
        yield "clear the partition table entry"
        yield from world.write(at, bytes(8))
        yield "begin the hypercall"
        yield from do_nested_tlbie(world.kvm, *arguments)
        if again:
            yield "write the partition table entry"
            yield from world.write(at, old.to_bytes(8, "big"))

    name = "drop and reuse" if again else "drop"
    return Task("drop by an invalidation of all" if of_all else name, path)


def guest_fault(gpa: int) -> ExplorerTask:
    """A vCPU of the guest itself loads from a page that has no host leaf."""

    def path(world: ExploredWorld) -> Steps[None]:
        kvm = world.kvm
        for _ in range(MAX_ATTEMPTS):
            yield "the guest accesses the page"
            dsisr = access_fault(kvm.pgtable, gpa, "load", rc_by_hardware=False)
            if not dsisr:
                return
            yield from radix_page_fault(kvm, gpa, dsisr)
            yield InvalidationEnded(kvm)
        raise UnmodelledError(f"the guest faults for ever at {gpa:#x}")

    return Task("guest fault", path)
