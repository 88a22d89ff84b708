"""`Model`: events in, results and State out. Dispatch only; the rules are elsewhere."""

from nestscope.decoders import state as st
from nestscope.sim import notifier, rmap
from nestscope.sim.constants import (
    EINVAL,
    H_SET_PARTITION_TABLE,
    H_TLB_INVALIDATE,
    U64,
)
from nestscope.sim.enter import enter_nested_guest
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import (
    DONE,
    Access,
    AddSlot,
    CreateVm,
    Discard,
    Event,
    Hcall,
    LoadCode,
    Result,
    Write,
)
from nestscope.sim.facts import NOTHING_UNUSUAL, HostFacts, Observations
from nestscope.sim.instantiate import guest_access
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.layout import LAYOUT, GuestLayout
from nestscope.sim.nested import set_partition_table
from nestscope.sim.tlbie import do_nested_tlbie


class Model:
    """The reference: what a host does, event by event.

    `layout` says where the guest keeps its stub and mailbox, because the guest
    touches them at every hypercall.
    """

    def __init__(self, facts: HostFacts, layout: GuestLayout = LAYOUT) -> None:
        self.facts = facts
        self.layout = layout
        self._kvm: Kvm | None = None

    @property
    def kvm(self) -> Kvm:
        """The VM; raises UnmodelledError before `CreateVm`."""
        if self._kvm is None:
            raise UnmodelledError("an event before CreateVm")
        return self._kvm

    def step(self, event: Event, observed: Observations = NOTHING_UNUSUAL) -> Result:
        """Execute one event and return what it reports.

        Raises:
            UnmodelledError: where the model has no specification. The VM is then
                in the middle of the event and must not be used further.
        """
        if isinstance(event, CreateVm):
            self._kvm = Kvm(self.facts)
            notifier.register(self._kvm)
            return DONE
        kvm = self.kvm
        kvm.failures = list(observed.failures)
        result = self._execute(kvm, event)
        if kvm.failures:
            raise UnmodelledError(f"these failures found no place to strike: {kvm.failures}")
        return result

    def _execute(self, kvm: Kvm, event: Event) -> Result:
        match event:
            case Access():
                return self._access(kvm, event)
            case Hcall():
                return self._hcall(kvm, event)
            case Write():
                vmm_write(kvm, event.gpa, event.data)
            case Discard():
                return discard(kvm, event)
            case AddSlot():
                add_slot(kvm, event)
            case LoadCode():
                touch_for_write(kvm, self.layout.code)
                kvm.payload_frame = touch_for_write(kvm, self.layout.payload)
            case _:
                raise UnmodelledError(f"the event {event}")
        return DONE

    def _hcall(self, kvm: Kvm, event: Hcall) -> Result:
        self._before_hcall(kvm)
        if event.number == H_SET_PARTITION_TABLE:
            ret = set_partition_table(kvm, event.args[0])
        elif event.number == H_TLB_INVALIDATE:
            ret = do_nested_tlbie(kvm, *event.args[:3])
        else:
            raise UnmodelledError(f"hypercall {event.number:#x}")
        guest_access(kvm, self.layout.mailbox, "store")
        return Result(ret=ret)

    def _access(self, kvm: Kvm, event: Access) -> Result:
        touch_for_write(kvm, self.layout.state)
        touch_for_write(kvm, self.layout.regs)
        self._before_hcall(kvm)
        result = enter_nested_guest(kvm, event)
        guest_access(kvm, self.layout.mailbox, "store")
        return result

    def _before_hcall(self, kvm: Kvm) -> None:
        """The VMM fills the mailbox; the stub is fetched and reads it."""
        touch_for_write(kvm, self.layout.mailbox)
        guest_access(kvm, self.layout.code, "fetch")
        guest_access(kvm, self.layout.mailbox, "load")

    def state(self) -> st.State:
        """Return everything that `read_state` would find in a kernel's memory."""
        info = st.KernelInfo(self.facts.release, self.facts.page_shift)
        vms = () if self._kvm is None else (vm_state(self._kvm),)
        return st.State(st.Source("model", "model"), info, vms)


def vmm_hva(kvm: Kvm, gpa: int) -> int:
    """Return where the VMM sees guest real address `gpa`."""
    memslot = kvm.gfn_to_memslot(gpa >> kvm.page_shift)
    if memslot is None:
        raise UnmodelledError(f"the VMM has no memory for {gpa:#x}")
    return kvm.hva_of(memslot, gpa >> kvm.page_shift) + (gpa & ((1 << kvm.page_shift) - 1))


def vmm_write(kvm: Kvm, gpa: int, data: bytes) -> None:
    """Write guest memory through the VMM's mapping; slots are contiguous there."""
    if data:
        vmm_hva(kvm, gpa + len(data) - 1)
        kvm.memory.write(vmm_hva(kvm, gpa), data)


def touch_for_write(kvm: Kvm, gpa: int) -> int:
    """Make the page private, as any write of the VMM does; return its frame."""
    return kvm.memory.write_fault(vmm_hva(kvm, gpa) >> kvm.page_shift)


def discard(kvm: Kvm, event: Discard) -> Result:
    """madvise(MADV_DONTNEED): whole host pages; the end is rounded up."""
    page_mask = (1 << kvm.page_shift) - 1
    hva = vmm_hva(kvm, event.gpa)
    if hva & page_mask:
        return Result(ret=-EINVAL & U64)
    length = (event.length + page_mask) & ~page_mask
    if length:
        vmm_hva(kvm, event.gpa + length - 1)
        kvm.memory.discard(hva, length)
    return DONE


def add_slot(kvm: Kvm, event: AddSlot) -> None:
    """KVM_SET_USER_MEMORY_REGION for a new slot: an empty rmap array."""
    shift = kvm.page_shift
    if (event.gpa | event.size | event.userspace_addr) & ((1 << shift) - 1):
        raise UnmodelledError("a memslot that is not page-aligned")
    if any(memslot.id == event.slot for memslot in kvm.memslots):
        raise UnmodelledError("a change of a memslot")
    kvm.memslots.append(
        Memslot(
            slot=event.slot,
            base_gfn=event.gpa >> shift,
            npages=event.size >> shift,
            userspace_addr=event.userspace_addr,
            flags=0,
            array=kvm.new_address(),
        )
    )


def vm_state(kvm: Kvm) -> st.Vm:
    """Return the VM as the State knows it."""
    return st.Vm(
        kvm=kvm.address,
        lpid=kvm.lpid,
        radix=True,
        mmu_lock_held=False,
        l1_ptcr=kvm.l1_ptcr,
        memslots=tuple(memslot_state(memslot) for memslot in kvm.memslots),
        host_leaves=st.Leaves.build(kvm.pgtable.leaves()),
        nested=tuple(nested_state(kvm.nested[lpid]) for lpid in sorted(kvm.nested)),
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
    """Return a nested guest with its shadow leaves."""
    return st.NestedGuest(
        nested.l1_lpid,
        nested.shadow_lpid,
        nested.refcnt,
        nested.l1_gr_to_hr,
        nested.process_table,
        nested.shadow.root,
        st.Leaves.build(nested.shadow.leaves()),
    )
