"""Life of a nested guest on the host (`struct kvm_nested_guest`)."""

from nestscope.decoders.words.ptcr import partition_count, partition_table
from nestscope.sim.constants import (
    H_PARAMETER,
    H_SUCCESS,
    KVM_MAX_NESTED_GUESTS_SHIFT,
)
from nestscope.sim.entry_state import UNKNOWN
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.steps import Steps
from nestscope.sim.tree import RadixTree

ENTRY_SIZE = 16


def set_partition_table(kvm: Kvm, ptcr: int) -> int:
    """Take a PTCR from the guest; nested guests that exist keep what they have.

    `kvmhv_set_partition_table`, transition 24.
    """
    memslot = kvm.gfn_to_memslot(partition_table(ptcr) >> kvm.page_shift)
    too_large = partition_count(ptcr) > 1 << KVM_MAX_NESTED_GUESTS_SHIFT
    if too_large or memslot is None or not memslot.is_visible():
        return H_PARAMETER
    kvm.l1_ptcr = ptcr
    return H_SUCCESS


def get_nested(kvm: Kvm, l1_lpid: int, *, create: bool) -> Steps[NestedGuest | None]:
    """Take a reference to nested guest `l1_lpid`, making it if asked (transition 23).

    `kvmhv_get_nested`. The kernel takes the number as an `int`: bits above 31 are
    lost, and with bit 31 set it fails the unsigned comparison. Two vCPUs that
    enter a new one at once: the second finds the key reserved and gets nothing.
    """
    l1_lpid &= 0xFFFF_FFFF
    if l1_lpid >= partition_count(kvm.l1_ptcr):
        return None
    yield "find the nested guest"
    nested = kvm.nested.get(l1_lpid)
    if nested is not None:
        nested.refcnt += 1
        return nested
    if not create:
        return None
    yield "make the nested guest"
    if kvm.strikes("nested_guest"):
        return None
    made = alloc_nested(kvm, l1_lpid)
    if l1_lpid in kvm.reserved or kvm.strikes("nested_idr"):
        release_nested(kvm, made)
        return None
    kvm.reserved.add(l1_lpid)
    yield "add the nested guest"
    nested = kvm.nested.get(l1_lpid)
    if nested is None:
        nested = kvm.nested[l1_lpid] = made
        nested.refcnt = 1
    nested.refcnt += 1
    if nested is not made:
        release_nested(kvm, made)
    return nested


def alloc_nested(kvm: Kvm, l1_lpid: int) -> NestedGuest:
    """`kvmhv_alloc_nested`: an empty shadow tree and the lowest free LPID."""
    shadow = RadixTree(kvm.page_shift, kvm.new_address())
    return NestedGuest(l1_lpid, kvm.alloc_lpid(), shadow)


def put_nested(kvm: Kvm, nested: NestedGuest) -> Steps[None]:
    """`kvmhv_put_nested`: the last reference releases."""
    yield "put the nested guest"
    kvm.touch(nested, "kvmhv_put_nested")
    nested.refcnt -= 1
    if nested.refcnt == 0:
        yield "release the nested guest"
        release_nested(kvm, nested)


def release_nested(kvm: Kvm, nested: NestedGuest) -> None:
    """`kvmhv_release_nested`: rmap entries stay behind, stale (transition 16)."""
    kvm.touch(nested, "kvmhv_release_nested")
    nested.shadow.clear()
    kvm.free_lpid(nested.shadow_lpid)
    nested.released = True


def remove_nested(kvm: Kvm, nested: NestedGuest) -> Steps[None]:
    """`kvmhv_remove_nested`: take it out of the idr and drop the idr's reference."""
    yield "remove the nested guest"
    if kvm.nested.get(nested.l1_lpid) is nested:
        del kvm.nested[nested.l1_lpid]
        kvm.reserved.discard(nested.l1_lpid)
        nested.refcnt -= 1
    if nested.refcnt == 0:
        yield "release the nested guest"
        release_nested(kvm, nested)


def lock_tlb(kvm: Kvm, nested: NestedGuest) -> Steps[None]:
    """`mutex_lock(&gp->tlb_lock)`: others may run before it, even if it is free."""
    yield nested.tlb_lock
    while nested.tlb_lock.held:
        yield nested.tlb_lock
    kvm.touch(nested, "mutex_lock(tlb_lock)")
    nested.tlb_lock.held = True


def unlock_tlb(kvm: Kvm, nested: NestedGuest) -> None:
    """`mutex_unlock(&gp->tlb_lock)`."""
    kvm.touch(nested, "mutex_unlock(tlb_lock)")
    nested.tlb_lock.held = False


def update_ptbl_cache(kvm: Kvm, nested: NestedGuest) -> None:
    """Read the guest's partition table entry again (`kvmhv_update_ptbl_cache`)."""
    data = None
    if nested.l1_lpid < partition_count(kvm.l1_ptcr):
        at = partition_table(kvm.l1_ptcr) + nested.l1_lpid * ENTRY_SIZE
        data = kvm.read_guest(at, ENTRY_SIZE)
    if data is None:
        nested.l1_gr_to_hr = nested.process_table = 0
    else:
        if UNKNOWN[:4] in data:
            raise UnmodelledError("a partition table entry with what only the machine knows")
        nested.l1_gr_to_hr = int.from_bytes(data[:8], "big")
        nested.process_table = int.from_bytes(data[8:], "big")


def flush_nested(kvm: Kvm, nested: NestedGuest) -> Steps[None]:
    """Empty the shadow tree, read the entry again, drop the guest if it is 0.

    `kvmhv_flush_nested`, transition 16 for RIC=2. Only a first doubleword of 0
    drops the nested guest.
    """
    yield "empty the shadow tree"
    kvm.touch(nested, "kvmhv_flush_nested")
    nested.shadow.clear()
    yield "read the partition table entry"
    update_ptbl_cache(kvm, nested)
    if nested.l1_gr_to_hr == 0:
        yield from remove_nested(kvm, nested)
