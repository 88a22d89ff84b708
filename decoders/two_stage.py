"""Where an address of a guest or of a nested guest leads: every stage, level by level."""

from dataclasses import dataclass

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.guest_memory import FirstReadable, GuestMemory
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import LINEAR_END, LINEAR_START, ROOT_BITS
from nestscope.decoders.kernel.vmm_memory import VmmReader
from nestscope.decoders.kernel.vms import VmReader
from nestscope.decoders.radix import LINUX, RadixRoot, Walk, walk
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Chain, NestedGuest, State, Vm


class WalkError(NestscopeError):
    """The walk that was asked for cannot begin: one sentence says why."""


@dataclass(frozen=True)
class TwoStageWalk:
    """The stages of one address.

    A nested real address has all three walks: `guest` through the guest's own tree
    (nested real to guest real, `l1_gr_to_hr`), `host` through the host's tree (guest
    real to host), and `shadow` through the shadow tree that hardware uses in their
    place. A guest real address has only `host`. `host` is None where the guest's
    walk ended in a fault. `chain` is the rmap of the guest page.
    """

    vm: Vm
    nested: NestedGuest | None
    address: int
    guest: Walk | None
    host: Walk | None
    shadow: Walk | None
    chain: Chain | None

    @property
    def shadow_agrees(self) -> bool | None:
        """Whether the shadow leaf leads where the two stages lead; None if one is missing.

        A disagreement may be legal: like a TLB, the shadow tree may be older than the
        guest's tree until the guest invalidates it.
        """
        if self.shadow is None or self.shadow.leaf is None:
            return None
        if self.host is None or self.host.leaf is None:
            return None
        return self.shadow.leaf.real_address == self.host.leaf.real_address


def choose_vm(state: State, number: int | None) -> Vm:
    """Return VM `number` (from 0, as the State lists them), or the only one.

    Raises:
        WalkError: if there is none, or a choice is needed.
    """
    if number is None and len(state.vms) == 1:
        return state.vms[0]
    if not state.vms:
        raise WalkError("there is no VM in this memory: nothing can be walked")
    if number is None:
        raise WalkError(f"there are {len(state.vms)} VMs: choose one with --vm 0 and up")
    if not 0 <= number < len(state.vms):
        raise WalkError(f"there is no VM {number}: they are 0 to {len(state.vms) - 1}")
    return state.vms[number]


def host_root(kernel: Kernel, vm: Vm) -> int:
    """Return the kernel address of the VM's page directory, `kvm->arch.pgtable`.

    Raises:
        WalkError: if the VM has no radix tree.
        UnreadableMemoryError: if `struct kvm` cannot be read.
    """
    if not vm.radix:
        raise WalkError(f"the VM at {vm.kvm:#x} has no radix tree: only radix guests can be walked")
    pgtable = VmReader(kernel.types, kernel.memory).vm(vm.kvm).pgtable
    if not pgtable:
        raise WalkError(f"the VM at {vm.kvm:#x} has no page directory")
    return pgtable


def guest_memory_of(physical: Memory, kernel: Kernel, vm: Vm) -> Memory:
    """Return the guest's memory: through its VMM where that can be followed, else its host leaves.

    Raises:
        UnreadableMemoryError: if `struct kvm` cannot be read.
    """
    ways: list[Memory] = [GuestMemory(physical, vm.host_leaves)]
    reader = VmmReader(kernel.types, kernel.memory)
    through_vmm = reader.memory_of(physical, vm, kernel.page_shift)
    return FirstReadable([through_vmm, *ways] if through_vmm is not None else ways)


def walk_guest_address(
    physical: Memory, state: State, vm: Vm, pgtable: int, gpa: int
) -> TwoStageWalk:
    """Walk a guest real address through the host's tree, whose root is `pgtable` (kernel va)."""
    host = walk(physical, kernel_root(pgtable, f"the VM at {vm.kvm:#x}"), gpa, LINUX)
    return TwoStageWalk(vm, None, gpa, None, host, None, _chain(state, vm, gpa, host))


def walk_nested_address(
    physical: Memory,
    guest_memory: Memory,
    state: State,
    vm: Vm,
    pgtable: int,
    l1_lpid: int,
    n_gpa: int,
) -> TwoStageWalk:
    """Walk a nested real address through the guest's tree, the host's, and the shadow tree.

    `guest_memory` takes guest real addresses.

    Raises:
        WalkError: if the VM has no such nested guest.
    """
    nested = next((guest for guest in vm.nested if guest.l1_lpid == l1_lpid), None)
    if nested is None:
        known = ", ".join(str(guest.l1_lpid) for guest in vm.nested) or "none"
        raise WalkError(f"the VM has no nested guest {l1_lpid} (there are: {known})")
    if nested.l1_gr_to_hr is None or nested.shadow_pgtable is None:
        raise WalkError(f"nested guest {l1_lpid} could not be read: see `state` for the reason")
    guest = walk(guest_memory, nested.l1_gr_to_hr, n_gpa, LINUX)
    host = None
    chain = None
    if guest.leaf is not None:
        gpa = guest.leaf.real_address
        host = walk(physical, kernel_root(pgtable, f"the VM at {vm.kvm:#x}"), gpa, LINUX)
        chain = _chain(state, vm, gpa, host)
    root = kernel_root(nested.shadow_pgtable, f"nested guest {l1_lpid}")
    shadow = walk(physical, root, n_gpa, LINUX)
    return TwoStageWalk(vm, nested, n_gpa, guest, host, shadow, chain)


def kernel_root(pgtable: int, whose: str) -> RadixRoot:
    """Return the root of one of the kernel's own trees from its kernel address.

    `whose` names the owner in the error.

    Raises:
        WalkError: if it is not in the linear map, where all of these trees lie.
    """
    if not LINEAR_START <= pgtable < LINEAR_END:
        raise WalkError(
            f"{whose} has its page directory at {pgtable:#x}, which is not in the kernel's "
            "linear map"
        )
    return RadixRoot(pgtable - LINEAR_START, ROOT_BITS)


def chain_gfn(gpa: int, leaf_shift: int, page_shift: int) -> int:
    """Return the gfn that the chain of a guest real address hangs at.

    It is the first one of the host's leaf, whose size is 2^`leaf_shift` bytes
    (`__kvmhv_nested_page_fault`). In a damaged tree a leaf may be smaller than the
    kernel's page of 2^`page_shift` bytes.
    """
    start = gpa >> leaf_shift << leaf_shift
    return start >> page_shift


def _chain(state: State, vm: Vm, gpa: int, host: Walk) -> Chain | None:
    """Return the chain of the guest page: it hangs at the first gfn of the host leaf."""
    page_shift = state.kernel.page_shift
    if page_shift is None or host.leaf is None:
        return None
    gfn = chain_gfn(gpa, host.leaf.shift, page_shift)
    for memslot in vm.memslots:
        if 0 <= gfn - memslot.base_gfn < memslot.npages:
            return memslot.rmap.of(gfn)
    return None
