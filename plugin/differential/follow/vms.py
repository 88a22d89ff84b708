"""The mirrors of all VMs, and what is taken over from the kernel's memory."""

from nestscope.decoders import state as st
from nestscope.decoders.compare import Difference
from nestscope.decoders.read_state import StateReader
from nestscope.plugin.differential.follow.mirror import VmMirror
from nestscope.plugin.differential.follow.observe import Observer

Differences = list[Difference]


class Mirrors:
    """VMs by the address of their `struct kvm`.

    `gone` are VMs that the kernel destroys: what it does to them is not followed.
    `found` collects differences that taking something over has shown.
    """

    def __init__(self, reader: StateReader, observer: Observer) -> None:
        self._reader = reader
        self._observer = observer
        self.vms: dict[int, VmMirror] = {}
        self.gone: set[int] = set()
        self.found: Differences = []

    def start(self) -> st.State:
        """Make mirrors of all VMs that are there; return what was read."""
        state = self._reader.read()
        for vm in state.vms:
            self._adopt(vm)
        return state

    def vm(self, kvm: int) -> VmMirror | None:
        """Return the mirror of a VM, made now for one that is new; None if it is not followed."""
        known = self.vms.get(kvm)
        if known is None and kvm not in self.gone:
            self.take_new(self._reader.read())
            known = self.vms.get(kvm)
            if known is None:
                self.gone.add(kvm)  # on its way out of vm_list
        if known is not None and known.slots_stale:
            self.refresh_slots(known)
        return known

    def take_new(self, state: st.State) -> None:
        """Adopt VMs that were made since; whatever they map no followed call has made."""
        for vm in state.vms:
            if vm.kvm in self.vms or vm.kvm in self.gone or not vm.radix:
                continue
            mirror = self._adopt(vm)
            self.expect_empty(
                f"{mirror.path}.host_leaves", "a new VM without leaves", vm.host_leaves
            )
            for guest in vm.nested:
                path = f"{mirror.path}.nested[l1_lpid={guest.l1_lpid}].leaves"
                self.expect_empty(path, "a new nested guest without leaves", guest.leaves)
            for slot in vm.memslots:
                path = f"{mirror.path}.memslots[id={slot.id}].rmap"
                self.expect_empty(path, "a new array without entries", slot.rmap)

    def expect_empty(self, path: str, expected: str, found: st.Leaves | st.Chains) -> None:
        """Note a difference if there is anything."""
        if len(found):
            self.found.append(Difference(path, expected, f"{len(found)}"))

    def _adopt(self, vm: st.Vm) -> VmMirror:
        release, page_shift = self._observer.kernel.release, self._observer.kernel.page_shift
        mirror = VmMirror.of(vm, page_shift, release)
        mirror.kvm.pgtable.root, _, _ = self._observer.members(vm.kvm)
        self.vms[vm.kvm] = mirror
        return mirror

    def refresh_slots(self, vm: VmMirror) -> None:
        """Take the memslots as they are now."""
        seen = self._read(vm)
        if seen is not None:
            self.found += vm.adopt_slots(seen.memslots)

    def refresh_nested(self, vm: VmMirror) -> None:
        """Take nested guests that were made or dropped."""
        seen = self._read(vm)
        if seen is not None:
            self.found += vm.adopt_nested(seen.nested)

    def _read(self, vm: VmMirror) -> st.Vm | None:
        state = self._reader.read()
        return next((each for each in state.vms if each.kvm == vm.kvm.address), None)

    def made(self, kvm: int) -> None:
        """A VM is being made at this address."""
        self.gone.discard(kvm)
        self.vms.pop(kvm, None)

    def destroyed(self, kvm: int) -> None:
        """The kernel begins to take a VM apart."""
        self.vms.pop(kvm, None)
        self.gone.add(kvm)

    def take_found(self) -> Differences:
        """Return what was found, and forget it."""
        found, self.found = self.found, []
        return found
