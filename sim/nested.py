"""Life of a nested guest on the host (`struct kvm_nested_guest`)."""

from nestscope.sim.constants import (
    H_PARAMETER,
    H_SUCCESS,
    KVM_MAX_NESTED_GUESTS_SHIFT,
    PTCR_BASE,
    SIZE_MASK,
)
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.tree import RadixTree


def set_partition_table(kvm: Kvm, ptcr: int) -> int:
    """Take a PTCR from the guest; nested guests that exist keep what they have.

    `kvmhv_set_partition_table`, transition 24.
    """
    memslot = kvm.gfn_to_memslot((ptcr & PTCR_BASE) >> kvm.page_shift)
    too_large = (ptcr & SIZE_MASK) + 12 - 4 > KVM_MAX_NESTED_GUESTS_SHIFT
    if too_large or memslot is None or not memslot.is_visible():
        return H_PARAMETER
    kvm.l1_ptcr = ptcr
    return H_SUCCESS


def entry_limit(kvm: Kvm) -> int:
    """Return how many entries the guest's partition table has."""
    return 1 << ((kvm.l1_ptcr & SIZE_MASK) + 12 - 4)


def get_nested(kvm: Kvm, l1_lpid: int, *, create: bool) -> NestedGuest | None:
    """Take a reference to nested guest `l1_lpid`, making it if asked (transition 23).

    `kvmhv_get_nested`. Numbers with bit 31 set are negative in the kernel and
    fail its unsigned comparison, as they do here.
    """
    if l1_lpid >= entry_limit(kvm):
        return None
    nested = kvm.nested.get(l1_lpid)
    if nested is None:
        if not create:
            return None
        nested = alloc_nested(kvm, l1_lpid)
        kvm.nested[l1_lpid] = nested
        nested.refcnt = 1
    nested.refcnt += 1
    return nested


def alloc_nested(kvm: Kvm, l1_lpid: int) -> NestedGuest:
    """`kvmhv_alloc_nested`: an empty shadow tree and the lowest free LPID."""
    shadow = RadixTree(kvm.page_shift, kvm.new_address())
    return NestedGuest(l1_lpid, kvm.alloc_lpid(), shadow)


def put_nested(kvm: Kvm, nested: NestedGuest) -> None:
    """`kvmhv_put_nested`: the last reference releases."""
    nested.refcnt -= 1
    if nested.refcnt == 0:
        release_nested(kvm, nested)


def release_nested(kvm: Kvm, nested: NestedGuest) -> None:
    """`kvmhv_release_nested`: rmap entries stay behind, stale (transition 16)."""
    nested.shadow.clear()
    kvm.free_lpid(nested.shadow_lpid)
    nested.released = True


def remove_nested(kvm: Kvm, nested: NestedGuest) -> None:
    """`kvmhv_remove_nested`: take it out of the idr and drop the idr's reference."""
    if kvm.nested.get(nested.l1_lpid) is nested:
        del kvm.nested[nested.l1_lpid]
        nested.refcnt -= 1
    if nested.refcnt == 0:
        release_nested(kvm, nested)


def update_ptbl_cache(kvm: Kvm, nested: NestedGuest) -> None:
    """Read the guest's partition table entry again (`kvmhv_update_ptbl_cache`)."""
    data = None
    if nested.l1_lpid < entry_limit(kvm):
        data = kvm.read_guest((kvm.l1_ptcr & PTCR_BASE) + (nested.l1_lpid << 4), 16)
    if data is None:
        nested.l1_gr_to_hr = nested.process_table = 0
    else:
        nested.l1_gr_to_hr = int.from_bytes(data[:8], "big")
        nested.process_table = int.from_bytes(data[8:], "big")


def flush_nested(kvm: Kvm, nested: NestedGuest) -> None:
    """Empty the shadow tree, read the entry again, drop the guest if it is 0.

    `kvmhv_flush_nested`, transition 16 for RIC=2. Only a first doubleword of 0
    drops the nested guest.
    """
    nested.shadow.clear()
    update_ptbl_cache(kvm, nested)
    if nested.l1_gr_to_hr == 0:
        remove_nested(kvm, nested)
