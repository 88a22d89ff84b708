"""The State of the model: what `read_state` would find in a kernel's memory."""

from nestscope.decoders import state as st
from nestscope.decoders.audit.guests import shadow_dw0
from nestscope.sim import rmap
from nestscope.sim.constants import KVM_MEMSLOT_INVALID
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest


def vm_state(kvm: Kvm, *, invalid_slots: bool = False) -> st.Vm:
    """Return the VM as the State knows it.

    A memslot that is being deleted or moved (KVM_MEMSLOT_INVALID) is not in the State of a
    kernel; with `invalid_slots` it is in this one.
    """
    orphans: list[NestedGuest] = []
    for nested in kvm.running.values():
        if kvm.nested.get(nested.l1_lpid) is not nested and nested not in orphans:
            orphans.append(nested)
    return st.Vm(
        kvm=kvm.address,
        lpid=kvm.lpid,
        radix=kvm.radix,
        mmu_lock_held=False,
        l1_ptcr=kvm.l1_ptcr,
        memslots=tuple(
            memslot_state(memslot)
            for memslot in kvm.memslots
            if invalid_slots or not memslot.flags & KVM_MEMSLOT_INVALID
        ),
        host_leaves=st.Leaves.build(kvm.pgtable.leaves()),
        nested=tuple(nested_state(kvm.nested[lpid]) for lpid in sorted(kvm.nested)),
        running=tuple(
            st.Running(vcpu, nested.shadow.root) for vcpu, nested in sorted(kvm.running.items())
        ),
        orphans=tuple(nested_state(nested) for nested in orphans),
    )


def memslot_state(memslot: Memslot) -> st.Memslot:
    """Return a memslot with its chains, head first."""
    return st.Memslot(
        memslot.id,
        memslot.base_gfn,
        memslot.npages,
        memslot.userspace_addr,
        memslot.flags,
        memslot.rmap_array,
        st.Chains.build(
            (
                memslot.base_gfn + index,
                st.FORM_SINGLE if isinstance(chain, int) else st.FORM_LIST,
                [rmap.unpack(word) for word in rmap.stored_words(chain)],
            )
            for index, chain in memslot.rmap.items()
        ),
    )


def nested_state(nested: NestedGuest) -> st.NestedGuest:
    """Return a nested guest with its shadow leaves.

    One abstract address names the structure and its root table: they are made and freed
    together. The partition table entry is that of `kvmhv_update_ptbl_cache`, which the
    first entry of a nested guest calls right after it was made.
    """
    return st.NestedGuest(
        nested.l1_lpid,
        nested.shadow_lpid,
        nested.refcnt,
        nested.l1_gr_to_hr,
        nested.process_table,
        nested.shadow.root,
        st.Leaves.build(nested.shadow.leaves()),
        nested.shadow.root,
        (shadow_dw0(nested.shadow.root), nested.process_table),
    )
