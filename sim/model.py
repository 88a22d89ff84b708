"""`Model`: events in, results and State out. Dispatch only; the rules are elsewhere."""

from collections.abc import Callable

from nestscope.decoders import state as st
from nestscope.sim import notifier, vmm
from nestscope.sim.constants import (
    H_NOT_AVAILABLE,
    H_PARAMETER,
    H_RPT_INVALIDATE,
    H_SET_PARTITION_TABLE,
    H_TLB_INVALIDATE,
)
from nestscope.sim.enter import enter_nested_guest
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import DONE, Access, CreateVm, DestroyVm, Event, Hcall, LoadCode, Result
from nestscope.sim.facts import NOTHING_UNUSUAL, HostFacts, Observations
from nestscope.sim.hardware import access_fault
from nestscope.sim.hostmm import ZERO_FRAME, HostMemory
from nestscope.sim.instantiate import guest_access
from nestscope.sim.kvm import Kvm
from nestscope.sim.layout import LAYOUT, GuestLayout
from nestscope.sim.lifecycle import destroy_vm
from nestscope.sim.model_state import nested_state, vm_state
from nestscope.sim.nested import set_partition_table
from nestscope.sim.rpt import rpt_invalidate
from nestscope.sim.steps import Steps, drain
from nestscope.sim.tlbie import do_nested_tlbie

__all__ = ["Model", "nested_state", "vm_state"]


class Model:
    """The reference: what a host does, event by event.

    `layout` says where the guest keeps its stub and mailbox, because the guest
    touches them at every hypercall.
    """

    def __init__(self, facts: HostFacts, layout: GuestLayout = LAYOUT) -> None:
        self.facts = facts
        self.layout = layout
        self._kvm: Kvm | None = None
        self._next_frame = ZERO_FRAME + 1
        self._stub_accesses = ((layout.code, "fetch"), (layout.mailbox, "load"))

    @property
    def kvm(self) -> Kvm:
        """The VM; raises UnmodelledError while there is none."""
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
            self.create_vm()
            return DONE
        kvm = self.kvm
        if observed is not NOTHING_UNUSUAL:
            kvm.failures = list(observed.failures)
            kvm.host_pages = observed.host_pages
            kvm.refused, kvm.moved = observed.refused, observed.moved
        result = drain(self.path(event))
        if kvm.failures:
            raise UnmodelledError(f"these failures found no place to strike: {kvm.failures}")
        kvm.host_pages = NOTHING_UNUSUAL.host_pages
        kvm.refused, kvm.moved = 0, None
        return result

    def create_vm(self) -> None:
        """Make the VM; its memory has frames that no earlier VM had."""
        if self._kvm is not None:
            raise UnmodelledError("a second VM")
        self._kvm = Kvm(self.facts, HostMemory(self.facts.page_shift, self._next_frame))
        notifier.register(self._kvm)

    def path(self, event: Event) -> Steps[Result]:
        """Return the kernel's path through an event, to be interleaved with others.

        The VM must exist. `Model.step` is the same, run to its end.
        """
        if isinstance(event, Access):
            return self._access(event)
        if isinstance(event, Hcall):
            return self._hcall(event)
        if isinstance(event, DestroyVm):
            return self._destroy()
        if isinstance(event, LoadCode):
            return self._load_code()
        return vmm.path(self.kvm, event)

    def _load_code(self) -> Steps[Result]:
        kvm = self.kvm
        yield from vmm.touch_for_write(kvm, self.layout.code)
        kvm.payload_frame = yield from vmm.touch_for_write(kvm, self.layout.payload)
        return DONE

    def _destroy(self) -> Steps[Result]:
        kvm = self.kvm
        yield from destroy_vm(kvm)
        self._next_frame = kvm.memory.next_frame
        self._kvm = None
        return DONE

    def _hcall(self, event: Hcall) -> Steps[Result]:
        kvm = self.kvm
        yield from self._before_hcall(kvm)
        args = event.args
        handler = HCALLS.get(event.number)
        if handler is None:
            raise UnmodelledError(f"hypercall {event.number:#x}")
        ret = yield from handler(kvm, args)
        yield from guest_access(kvm, self.layout.mailbox, "store")
        return Result(ret=ret)

    def _access(self, event: Access) -> Steps[Result]:
        kvm = self.kvm
        layout = self.layout
        yield from vmm.touch_for_write(kvm, layout.state)
        yield from vmm.touch_for_write(kvm, layout.regs)
        yield from self._before_hcall(kvm)
        result = yield from enter_nested_guest(kvm, event)
        if result.ret not in NOT_ENTERED:
            kvm.mark_page_dirty(layout.state)
            kvm.mark_page_dirty(layout.regs)
        yield from guest_access(kvm, layout.mailbox, "store")
        return result

    def _before_hcall(self, kvm: Kvm) -> Steps[None]:
        """The VMM fills the mailbox; the stub is fetched and reads it."""
        if not kvm.radix:
            raise UnmodelledError("a guest that runs on a hash page table")
        yield from vmm.touch_for_write(kvm, self.layout.mailbox)
        for gpa, kind in self._stub_accesses:
            # Nearly always there: begin a path only where the guest faults.
            if access_fault(kvm.pgtable, gpa, kind, rc_by_hardware=self.facts.rc_by_hardware):
                yield from guest_access(kvm, gpa, kind)

    def state(self) -> st.State:
        """Return everything that `read_state` would find in a kernel's memory."""
        info = st.KernelInfo(self.facts.release, self.facts.page_shift)
        vms = () if self._kvm is None else (vm_state(self._kvm),)
        return st.State(st.Source("model", "model"), info, vms)


def _set_partition_table(kvm: Kvm, args: tuple[int, ...]) -> Steps[int]:
    yield "set the partition table"
    return set_partition_table(kvm, args[0])


HCALLS: dict[int, Callable[[Kvm, tuple[int, ...]], Steps[int]]] = {
    H_SET_PARTITION_TABLE: _set_partition_table,
    H_TLB_INVALIDATE: lambda kvm, args: do_nested_tlbie(kvm, *args[:3]),
    H_RPT_INVALIDATE: lambda kvm, args: rpt_invalidate(kvm, *args[:6]),
}
"""Hypercalls of the guest that the model knows. The VMM has enabled H_RPT_INVALIDATE."""

NOT_ENTERED = (H_NOT_AVAILABLE, H_PARAMETER)
"""H_ENTER_NESTED failed before anything ran: nothing is copied back to the guest."""
