"""`Model`: events in, results and State out. Dispatch only; the rules are elsewhere."""

import struct
from collections.abc import Callable, Mapping

from nestscope.decoders import state as st
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim import notifier, vmm
from nestscope.sim.constants import (
    H_ENTER_NESTED,
    H_RPT_INVALIDATE,
    H_SET_PARTITION_TABLE,
    H_TLB_INVALIDATE,
    TRAP_SYSCALL,
)
from nestscope.sim.enter import enter_nested_guest
from nestscope.sim.entry_state import prepared_regs, prepared_state
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import DONE, Access, CreateVm, DestroyVm, Event, Hcall, LoadCode, Result
from nestscope.sim.facts import NOTHING_UNUSUAL, HostFacts, Observations
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hardware import access_fault
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.instantiate import guest_access
from nestscope.sim.kvm import Kvm
from nestscope.sim.layout import LAYOUT, GuestLayout
from nestscope.sim.lifecycle import destroy_vm
from nestscope.sim.model_state import nested_state, vm_state
from nestscope.sim.nested import set_partition_table
from nestscope.sim.nested_memory import host_location
from nestscope.sim.payload import PAYLOAD, STUB
from nestscope.sim.rpt import rpt_invalidate
from nestscope.sim.steps import Steps, drain
from nestscope.sim.tlbie import do_nested_tlbie

__all__ = ["Model", "nested_state", "vm_state"]


class Model:
    """The reference: what a host does, event by event.

    `layout` says where the guest keeps its stub and mailbox, because the guest
    touches them at every hypercall. `host_pages` are the host's numbers of frames, as
    far as they are observed (`Renaming.known`), `mixed` frames that stand for the OR of
    several such numbers.
    """

    def __init__(self, facts: HostFacts, layout: GuestLayout = LAYOUT) -> None:
        self.facts = facts
        self.layout = layout
        self.host_pages: Mapping[int, int] = NOTHING_UNUSUAL.host_pages
        self.mixed: dict[int, tuple[int, ...]] = {}
        self._kvm: Kvm | None = None
        self._next_frame = ZERO_FRAME + 1

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
        kvm.host_pages = observed.host_pages or self.host_pages
        self.tell(observed)
        result = drain(self.path(event))
        self.end_step(kvm)
        return result

    def tell(self, observed: Observations) -> None:
        """Tell the paths that begin now what happened in them."""
        if observed is not NOTHING_UNUSUAL:
            kvm = self.kvm
            kvm.failures += observed.failures
            kvm.refused, kvm.moved = observed.refused, observed.moved
            kvm.memory.huge_refused = observed.huge_refused

    def end_step(self, kvm: Kvm | None = None) -> None:
        """Forget what was told; raises UnmodelledError if something of it did not happen."""
        kvm = kvm or self.kvm
        if kvm.failures:
            raise UnmodelledError(f"these failures found no place to strike: {kvm.failures}")
        if kvm.memory.huge_refused:
            raise UnmodelledError("the host had no memory for a huge page that nothing asked for")
        kvm.refused, kvm.moved = 0, None

    def create_vm(self) -> None:
        """Make the VM; its memory has frames that no earlier VM had."""
        if self._kvm is not None:
            raise UnmodelledError("a second VM")
        facts = self.facts
        memory = HostMemory(facts.page_shift, self._next_frame, facts.habits)
        self._kvm = Kvm(facts, memory)
        self._kvm.mixed = self.mixed
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
        yield from self._vmm_writes(self.layout.code, STUB)
        yield from self._vmm_writes(self.layout.payload, PAYLOAD)
        return DONE

    def _vmm_writes(self, gpa: int, data: bytes) -> Steps[None]:
        """Write where the VMM has its own structures in guest memory."""
        if not (yield from self.kvm.memory.write(vmm.vmm_hva(self.kvm, gpa), data)):
            raise UnmodelledError(f"the VMM writes to {gpa:#x}, which it made read-only")

    def _destroy(self) -> Steps[Result]:
        kvm = self.kvm
        yield from destroy_vm(kvm)
        self._next_frame = kvm.memory.next_frame
        self._kvm = None
        return DONE

    def _hcall(self, event: Hcall) -> Steps[Result]:
        handler = HCALLS.get(event.number)
        if handler is None:
            raise UnmodelledError(f"hypercall {event.number:#x}")
        args = (*event.args, *NO_ARGUMENTS)[: len(NO_ARGUMENTS)]
        layout = self.layout.of_vcpu(event.vcpu)
        return (
            yield from self._make_hcall(
                layout, event.number, args, handler(self.kvm, args, event.vcpu)
            )
        )

    def _access(self, event: Access) -> Steps[Result]:
        layout = self.layout.of_vcpu(event.vcpu)
        code = ACCESS_CODES[event.kind]
        yield from self._vmm_writes(layout.state, prepared_state(event.l1_lpid))
        yield from self._vmm_writes(layout.regs, prepared_regs(event.address, code, event.value))
        args = (layout.state, layout.regs, *NO_ARGUMENTS)[: len(NO_ARGUMENTS)]
        path = enter_nested_guest(
            self.kvm, layout.state, layout.regs, limited=True, vcpu=event.vcpu
        )
        result = yield from self._make_hcall(layout, H_ENTER_NESTED, args, path)
        loaded = event.kind == "load" and (result.ret, result.r3) == (TRAP_SYSCALL, 0)
        return result if loaded else result._replace(value=None)

    def _make_hcall(
        self, layout: GuestLayout, number: int, args: tuple[int, ...], path: Steps[Result]
    ) -> Steps[Result]:
        """Let the stub make a hypercall: from its mailbox, and with the results into it."""
        kvm = self.kvm
        if not kvm.radix:
            raise UnmodelledError("a guest that runs on a hash page table")
        mailbox = layout.mailbox
        yield from self._vmm_writes(mailbox, struct.pack(f"<{1 + len(args)}Q", number, *args))
        for gpa, kind in ((layout.code, "fetch"), (mailbox, "load")):
            # Nearly always there: begin a path only where the guest faults.
            if access_fault(kvm.pgtable, gpa, kind, rc_by_hardware=self.facts.rc_by_hardware):
                yield from guest_access(kvm, gpa, kind)
        if kvm.read_guest(self.layout.code, len(STUB)) != STUB:
            raise UnmodelledError("the code of the guest itself was overwritten")
        result = yield from path
        yield from guest_access(kvm, mailbox, "store")
        frame, offset = host_location(kvm, kvm.pgtable, mailbox + RESULTS)
        kvm.memory.write_frame(frame, offset, struct.pack("<2Q", result.ret, args[0]))
        return result

    def mixed_leaves(self) -> frozenset[tuple[int, int]]:
        """Return `(l1_lpid, n_gpa)` of the shadow leaves that mix host pages (finding 0002)."""
        if not self.mixed or self._kvm is None:
            return frozenset()
        kvm = self._kvm
        return frozenset(
            (nested.l1_lpid, address)
            for nested in kvm.nested.values()
            for address, _, pte in nested.shadow.leaves()
            if (pte & PTE_RPN) >> kvm.page_shift in self.mixed
        )

    def state(self) -> st.State:
        """Return everything that `read_state` would find in a kernel's memory."""
        info = st.KernelInfo(self.facts.release, self.facts.page_shift)
        vms = () if self._kvm is None else (vm_state(self._kvm),)
        return st.State(st.Source("model", "model"), info, vms)


def _plain(path: Steps[int]) -> Steps[Result]:
    return Result(ret=(yield from path))


def _set_partition_table(kvm: Kvm, args: tuple[int, ...], _vcpu: int) -> Steps[Result]:
    yield "set the partition table"
    return Result(ret=set_partition_table(kvm, args[0]))


def _enter(kvm: Kvm, args: tuple[int, ...], vcpu: int) -> Steps[Result]:
    """Of a hypercall that the guest makes itself only r3 is reported."""
    return Result(ret=(yield from enter_nested_guest(kvm, *args[:2], vcpu=vcpu)).ret)


HCALLS: dict[int, Callable[[Kvm, tuple[int, ...], int], Steps[Result]]] = {
    H_SET_PARTITION_TABLE: _set_partition_table,
    H_ENTER_NESTED: _enter,
    H_TLB_INVALIDATE: lambda kvm, args, _: _plain(do_nested_tlbie(kvm, *args[:3])),
    H_RPT_INVALIDATE: lambda kvm, args, _: _plain(rpt_invalidate(kvm, *args[:6])),
}
"""Hypercalls of the guest that the model knows, with their arguments and the vCPU's number.

The VMM has enabled H_RPT_INVALIDATE.
"""

NO_ARGUMENTS = (0,) * 7
RESULTS = 0x80
ACCESS_CODES = {"load": 0, "store": 1, "fetch": 2}
"""The payload's r4."""
