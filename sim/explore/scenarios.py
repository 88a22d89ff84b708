"""Starting states, and which operations meet in them."""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

from nestscope.decoders.words.pte import PTE_C, PTE_R
from nestscope.sim.constants import EAA_RWX, KVM_MEM_LOG_DIRTY_PAGES, PMD_SHIFT
from nestscope.sim.explore import tasks
from nestscope.sim.explore.tasks import GPA, L1_LPID, N_GPA, PAGE, ExplorerTask
from nestscope.sim.explore.world import DATA, PAGE_SHIFT, ExploredWorld
from nestscope.sim.kvm import NestedGuest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.nested import get_nested, put_nested, update_ptbl_cache
from nestscope.sim.operations import Map
from nestscope.sim.steps import drain

ALL = EAA_RWX | PTE_R | PTE_C
OTHER_LPID = 2


class Start(NamedTuple):
    """A starting state: a name, and what makes the world."""

    name: str
    make: Callable[[], ExploredWorld]


class Scenario(NamedTuple):
    """Concurrent operations on one starting state."""

    start: str
    tasks: tuple[ExplorerTask, ...]
    make: Callable[[], ExploredWorld]

    @property
    def name(self) -> str:
        """The operations, for people."""
        return " x ".join(task.name for task in self.tasks)


def nested_guest(world: ExploredWorld, l1_lpid: int) -> NestedGuest:
    """Let the guest map the page in a nested guest's tree, and the host make that guest."""
    world.do(Map(l1_lpid, N_GPA, GPA, PAGE_SHIFT, ALL))
    nested = drain(get_nested(world.kvm, l1_lpid, create=True))
    assert nested is not None
    update_ptbl_cache(world.kvm, nested)
    drain(put_nested(world.kvm, nested))
    return nested


def world_with(*mapped: int, host_leaf: bool = True) -> ExploredWorld:
    """Nested guests 1 and 2, of which those in `mapped` have touched the page.

    The slot logs dirty pages, so that the dirty log can be read.
    """
    world = ExploredWorld()
    slot = world.data_slot()
    slot.flags |= KVM_MEM_LOG_DIRTY_PAGES
    slot.dirty = set()
    world.kvm.memory.new_page(LAYOUT.userspace_addr + GPA >> PAGE_SHIFT)
    for l1_lpid in (L1_LPID, OTHER_LPID):
        nested_guest(world, l1_lpid)
    if host_leaf and not mapped:
        drain(tasks.guest_fault(GPA).begin(world))
    for l1_lpid in mapped:
        drain(tasks.access(world, world.kvm.nested[l1_lpid], "load", N_GPA))
    return world


STARTS = (
    Start("nothing is mapped", lambda: world_with(host_leaf=False)),
    Start("host leaf, no shadow leaf", world_with),
    Start("shadow leaf, single entry", lambda: world_with(L1_LPID)),
    Start("shadow leaves, list", lambda: world_with(OTHER_LPID, L1_LPID)),
)


def operations() -> tuple[ExplorerTask, ...]:
    """The operations of which every pair is run."""
    return (
        tasks.fault("store"),
        tasks.tlbie("tlbie", ric=0, is_=0),
        tasks.unmap(),
        tasks.tlbie("flush RIC=0", ric=0, is_=2),
        tasks.tlbie("flush RIC=2", ric=2, is_=2),
        tasks.tlbie("flush RIC=2 of all", ric=2, is_=3),
        tasks.dirty_clear(),
        tasks.slot_delete(),
        tasks.drop(),
    )


def entered(
    make: Callable[[], ExploredWorld], vcpus: int, *others: int
) -> Callable[[], ExploredWorld]:
    """Return `make` with vCPUs in nested guest 1, and one in each of the `others`."""

    def make_entered() -> ExploredWorld:
        world = make()
        for l1_lpid in (*[L1_LPID] * vcpus, *others):
            tasks.enter(world, world.kvm.nested[l1_lpid])
        return world

    return make_entered


def pairs(starts: Sequence[Start] = STARTS) -> list[Scenario]:
    """Every pair of operations, an operation with itself included, on every starting state.

    In each state once with nobody else, once with one more vCPU in the nested guest,
    which does nothing but hold a reference.
    """
    found = []
    for start in starts:
        for pair in combinations_with_replacement(operations(), 2):
            faults = sum(task.name.startswith("fault") for task in pair)
            for bystanders in (0, 1):
                place = start.name + (", one more vCPU in the nested guest" if bystanders else "")
                found.append(Scenario(place, pair, entered(start.make, faults + bystanders)))
    return found


def huge_world(*, logs: bool) -> ExploredWorld:
    """The VMM has a 2 MiB page behind the first half of the data slot."""
    world = ExploredWorld()
    drain(world.kvm.memory.collapse(LAYOUT.userspace_addr + DATA, PMD_SHIFT))
    if logs:
        slot = world.data_slot()
        slot.flags |= KVM_MEM_LOG_DIRTY_PAGES
        slot.dirty = set()
    nested_guest(world, L1_LPID)
    return world


def huge_leaf_world() -> ExploredWorld:
    """A 2 MiB host leaf, no shadow leaf yet; nothing logs."""
    world = huge_world(logs=False)
    drain(tasks.guest_fault(GPA).begin(world))
    return world


VICTIM_GPA = DATA + (1 << PMD_SHIFT) + 4 * PAGE
VICTIM_N_GPA = N_GPA + PAGE


def host_number_world() -> ExploredWorld:
    """Base-page host leaves over a 2 MiB page, because the slot logs.

    The nested guest has touched one of them, and a page elsewhere in the slot (the
    victim), whose gfn happens to be the host page number of the first.
    """
    world = huge_world(logs=True)
    kvm = world.kvm
    world.do(Map(L1_LPID, VICTIM_N_GPA, VICTIM_GPA, PAGE_SHIFT, ALL))
    kvm.memory.new_page(LAYOUT.userspace_addr + VICTIM_GPA >> PAGE_SHIFT)
    for n_gpa in (N_GPA, VICTIM_N_GPA):
        drain(tasks.access(world, kvm.nested[L1_LPID], "load", n_gpa))
    frame = kvm.memory.find(LAYOUT.userspace_addr + GPA >> PAGE_SHIFT)[0]
    kvm.host_pages = {frame: VICTIM_GPA >> PAGE_SHIFT}
    return world


def more() -> list[Scenario]:
    """What no pair of `operations` shows: three at once, huge pages, one path alone."""
    return [
        Scenario(
            "nothing is mapped",
            (tasks.fault("store"), tasks.fault("load", OTHER_LPID)),
            entered(STARTS[0].make, 1, OTHER_LPID),
        ),
        Scenario(
            "shadow leaf, single entry",
            (tasks.fault("store"), tasks.drop(again=True), tasks.unmap()),
            entered(lambda: world_with(L1_LPID), 1),
        ),
        Scenario(
            "2 MiB host leaf, no shadow leaf",
            (tasks.fault("store"), tasks.logging(on=True)),
            entered(huge_leaf_world, 1),
        ),
        Scenario(
            "base-page host leaves over a 2 MiB page",
            (tasks.guest_fault(GPA + PAGE), tasks.logging(on=False)),
            host_number_world,
        ),
        Scenario("nothing is mapped", (tasks.drop(of_all=True),), STARTS[0].make),
    ]


def long() -> list[Scenario]:
    """What takes minutes: run by the nightly tests only."""
    return [
        Scenario(
            start.name,
            (tasks.fault("store"), tasks.fault("load", OTHER_LPID), tasks.unmap()),
            entered(start.make, 1, OTHER_LPID),
        )
        for start in STARTS
    ]
