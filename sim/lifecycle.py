"""The end of a VM's nested guests: destruction, and the switch to a hash page table."""

from nestscope.sim.constants import (
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    PPC_MAX_HPT_ORDER,
    PPC_MIN_HPT_ORDER,
)
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.nested import release_nested
from nestscope.sim.steps import Steps


def destroy_vm(kvm: Kvm) -> Steps[None]:
    """Free everything (`kvmppc_core_destroy_vm_hv`, transition 26).

    The host tree goes first and looks at no rmap; then the nested guests, then
    the chains. No vCPU is left, and the notifier is unregistered before.
    """
    require_no_vcpu(kvm)
    kvm.memory.notifier = None
    yield "free the host tree"
    free_radix(kvm)
    yield from release_all_nested(kvm)
    kvm.free_lpid(kvm.lpid)


def switch_to_hpt(kvm: Kvm) -> Steps[int]:
    """KVM_PPC_CONFIGURE_V3_MMU without RADIX: return 0 or a negative errno (transition 26).

    `kvmhv_configure_mmu` and `kvmppc_switch_mmu_to_hpt`. A hypervisor that is a
    guest itself has radix only.
    """
    if kvm.facts.pseries:
        return -EINVAL
    require_no_vcpu(kvm)
    if not kvm.radix:
        return 0
    yield from release_all_nested(kvm)
    reset_rmap(kvm)
    yield "clear radix"
    kvm.radix = False
    yield "free the host tree"
    free_radix(kvm)
    return 0


def allocate_htab(kvm: Kvm, order: int) -> Steps[int]:
    """`kvmppc_alloc_reset_hpt`: the mode is switched first, whatever becomes of the table.

    Not for a hypervisor that is a guest itself.
    """
    if kvm.facts.pseries:
        return -EOPNOTSUPP
    yield from switch_to_hpt(kvm)
    if not PPC_MIN_HPT_ORDER <= order <= PPC_MAX_HPT_ORDER:
        return -EINVAL
    return -ENOMEM if kvm.strikes("htab") else 0


def switch_to_radix(kvm: Kvm) -> Steps[int]:
    """The same ioctl with RADIX: an empty host tree (`kvmppc_switch_mmu_to_radix`).

    The partition table that the guest had set stays.
    """
    require_no_vcpu(kvm)
    if not kvm.radix:
        kvm.pgtable.root = kvm.new_address()
        reset_rmap(kvm)
        yield "set radix"
        kvm.radix = True
    return 0


def require_no_vcpu(kvm: Kvm) -> None:
    """Refuse what the kernel does with no vCPU running."""
    if kvm.running:
        raise UnmodelledError("a vCPU is in a nested guest")


def release_all_nested(kvm: Kvm) -> Steps[None]:
    """`kvmhv_release_all_nested`: nested guests with no other reference go, then all chains."""
    yield "remove all nested guests"
    last: list[NestedGuest] = []
    for l1_lpid in sorted(kvm.nested):
        nested = kvm.nested[l1_lpid]
        nested.refcnt -= 1
        if nested.refcnt == 0:
            last.append(nested)
    kvm.nested.clear()
    kvm.reserved.clear()
    for nested in reversed(last):
        yield "release the nested guest"
        release_nested(kvm, nested)
    yield "free all chains"
    reset_rmap(kvm)


def reset_rmap(kvm: Kvm) -> None:
    """Empty every chain (`kvmhv_free_memslot_nest_rmap`, `kvmppc_rmap_reset`)."""
    for memslot in kvm.memslots:
        memslot.rmap.clear()


def free_radix(kvm: Kvm) -> None:
    """`kvmppc_free_radix`: leaves and tables of the host tree go at once."""
    kvm.pgtable.clear()
