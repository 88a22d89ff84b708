"""Corruptions of structures: nested guests, the idr, the partition table, vCPUs, the lock."""

from nestscope.decoders.state import NestedGuest
from nestscope.plugin.differential.corruptions.corruption import Place, corruption
from nestscope.plugin.differential.corruptions.scene import Scene, SceneError

_GUEST = "kvm_nested_guest"
_LOCKS = (
    # The deepest member that the kernel has; see the image's `build`.
    "mmu_lock.rlock.raw_lock.val.counter",
    "mmu_lock.rlock.raw_lock.val",
    "mmu_lock.rlock.raw_lock.slock",
)
_IDR = "arch.kvm_nested_guest_idr.idr_rt.xa_head"


def _at(scene: Scene, guest: NestedGuest) -> Place:
    return {"kvm": scene.vm.kvm, "l1_lpid": guest.l1_lpid, "address": guest.address}


def _two(scene: Scene) -> tuple[NestedGuest, NestedGuest]:
    first, second = scene.single().guest, scene.other_single().guest
    return (first, second) if first.l1_lpid < second.l1_lpid else (second, first)


def _set(scene: Scene, guest: NestedGuest, path: str, value: int) -> None:
    scene.member(_GUEST, guest.address or 0, path, value)


@corruption("I6.refcnt")
def reference_lost(scene: Scene) -> Place:
    """`refcnt` of a nested guest in the idr becomes 0."""
    guest = scene.single().guest
    _set(scene, guest, "refcnt", 0)
    return _at(scene, guest)


@corruption("I6.shadow-lpid")
def shadow_lpid_of_another_guest(scene: Scene) -> Place:
    """`shadow_lpid` becomes that of another nested guest."""
    first, second = _two(scene)
    _set(scene, second, "shadow_lpid", first.shadow_lpid or 0)
    return _at(scene, second)


@corruption("I6.shadow-lpid")
def shadow_lpid_of_the_vm(scene: Scene) -> Place:
    """`shadow_lpid` becomes the LPID of the VM."""
    guest = scene.single().guest
    _set(scene, guest, "shadow_lpid", scene.vm.lpid or 0)
    return _at(scene, guest)


@corruption("I6.shadow-lpid")
def shadow_lpid_of_the_host(scene: Scene) -> Place:
    """`shadow_lpid` becomes 0, the LPID of the host."""
    guest = scene.single().guest
    _set(scene, guest, "shadow_lpid", 0)
    return _at(scene, guest)


@corruption("I6.shadow-pgtable")
def shadow_tree_of_another_guest(scene: Scene) -> Place:
    """`shadow_pgtable` becomes that of another nested guest."""
    first, second = _two(scene)
    _set(scene, second, "shadow_pgtable", first.shadow_pgtable or 0)
    return _at(scene, second)


@corruption("I6.idr-key")
def guest_says_another_lpid(scene: Scene) -> Place:
    """`l1_lpid` of a nested guest is not its key in the idr."""
    guest = scene.single().guest
    _set(scene, guest, "l1_lpid", guest.l1_lpid + 100)
    return _at(scene, guest)


@corruption("I6.idr-key")
def guest_of_another_vm(scene: Scene) -> Place:
    """`l1_host` of a nested guest is another VM."""
    guest = scene.single().guest
    _set(scene, guest, "l1_host", scene.vm.kvm + 0x1_0000)
    return _at(scene, guest)


@corruption("I6.partition-table")
def partition_table_entry_cleared(scene: Scene) -> Place:
    """The partition table entry of a nested guest becomes 0."""
    guest = scene.single().guest
    scene.write(scene.partition_entry(guest.shadow_lpid or 0), bytes(16))
    return _at(scene, guest)


@corruption("I6.partition-table")
def partition_table_leads_to_another_tree(scene: Scene) -> Place:
    """The partition table entry of a nested guest becomes that of another one."""
    first, second = _two(scene)
    entry = scene.memory.read(scene.partition_entry(first.shadow_lpid or 0), 16)
    scene.write(scene.partition_entry(second.shadow_lpid or 0), entry)
    return _at(scene, second)


@corruption("I6.partition-table")
def process_table_of_another(scene: Scene) -> Place:
    """The second doubleword of a partition table entry has another process table."""
    guest = scene.single().guest
    place = scene.partition_entry(guest.shadow_lpid or 0) + 8
    scene.write(place, ((guest.process_table or 0) ^ 0x10_0000).to_bytes(8, "big"))
    return _at(scene, guest)


@corruption("I6.orphan")
def running_guest_not_in_idr(scene: Scene) -> Place:
    """A nested guest is taken out of the idr while a vCPU is in it."""
    guest = scene.single().guest
    scene.u64(_slot_of(scene, guest), 0)
    scene.member("kvm_vcpu", scene.vcpu(), "arch.nested", guest.address or 0)
    return _at(scene, guest)


@corruption("vm.in-transition", alone=True)
def lock_held_in_a_broken_state(scene: Scene) -> Place:
    """`mmu_lock` is held, and the rmap word of a single entry is 0."""
    scene.u64(scene.word(scene.single().gfn), 0)
    path = scene.types.first("kvm", *_LOCKS)
    if path is None:
        raise SceneError("the lock of these types is not known")
    scene.member("kvm", scene.vm.kvm, path, 1)
    return {"kvm": scene.vm.kvm, "address": scene.vm.kvm}


def _slot_of(scene: Scene, guest: NestedGuest) -> int:
    """Return the address of the pointer by which the kernel finds a nested guest."""
    types = scene.types
    array = types.first("kvm", "arch.nested_guests")
    if array is not None:
        return scene.vm.kvm + types.offset("kvm", array) + 8 * guest.l1_lpid
    head = scene.vm.kvm + types.offset("kvm", _IDR)
    node = scene.memory.u64(head) - 2
    if guest.l1_lpid >= 64 or scene.memory.read(node + types.offset("xa_node", "shift"), 1)[0]:
        raise SceneError("the idr has more than one level")
    return node + types.offset("xa_node", "slots") + 8 * guest.l1_lpid


OBJECT_CORRUPTIONS = (
    reference_lost,
    shadow_lpid_of_another_guest,
    shadow_lpid_of_the_vm,
    shadow_lpid_of_the_host,
    shadow_tree_of_another_guest,
    guest_says_another_lpid,
    guest_of_another_vm,
    partition_table_entry_cleared,
    partition_table_leads_to_another_tree,
    process_table_of_another,
    running_guest_not_in_idr,
    lock_held_in_a_broken_state,
)
