"""`Follower`: one live kernel, its calls, and the model beside them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nestscope.decoders.compare import Difference
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.read_state import StateReader
from nestscope.decoders.state import Source, State
from nestscope.plugin.differential.follow.checks import Checker, Tally
from nestscope.plugin.differential.follow.entries import Entries, Unmatched
from nestscope.plugin.differential.follow.guest_calls import NestedTlbie
from nestscope.plugin.differential.follow.leaf_calls import CreatePte, KernelCall
from nestscope.plugin.differential.follow.observe import FollowError, Observer
from nestscope.plugin.differential.follow.tracer import Stop, Tracer
from nestscope.plugin.differential.follow.vms import Mirrors
from nestscope.plugin.differential.follow.whole import compare_vm
from nestscope.plugin.mi.session import GdbSession

CALLS = (
    "kvmppc_create_pte",
    "kvmppc_unmap_pte",
    "kvmppc_hv_handle_set_rc",
    "kvmhv_update_nest_rmap_rc_list",
    "kvmppc_free_pgtable_radix",
    "kvmhv_do_nested_tlbie",
    "kvmhv_set_partition_table",
)
"""Functions whose calls are checked."""
OF_VCPUS = CALLS[5:]
"""Those of `CALLS` whose first argument is a vCPU."""
EVENTS = (
    "kvmppc_core_init_vm_hv",
    "kvmppc_core_destroy_vm_hv",
    "kvmppc_core_commit_memory_region_hv",
)
"""Functions that tell of VMs and memslots: r3 is `struct kvm`."""
_NEEDED = CALLS[:2]
_RETRY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Found:
    """A difference and the call at which it showed, "" for a comparison of everything.

    `seconds` counts from the begin.
    """

    seconds: float
    call: str
    difference: Difference


@dataclass
class Limits:
    """When to stop: checked calls, seconds, a difference, or when `until()` holds.

    `whole_every`: seconds between comparisons of everything.
    """

    calls: int | None = None
    seconds: float | None = None
    whole_every: float = 10.0
    first: bool = False
    until: Callable[[], bool] = lambda: False


@dataclass
class Report:
    """What following has brought."""

    tally: Tally = field(default_factory=Tally)
    found: list[Found] = field(default_factory=list)
    wholes: int = 0
    seconds: float = 0.0
    stops: int = 0
    foreign: int = 0
    missing: list[str] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """Calls that returned and were checked."""
        return sum(list(self.tally.calls.values()))


class Follower:
    """Follows the calls of one kernel through GDB.

    `on_found` is told each difference at once; `disturb`, if given, is called with
    the follower at each stop: it is how a test changes the kernel's memory.
    """

    def __init__(
        self,
        session: GdbSession,
        kernel: Kernel,
        source: Source,
        *,
        on_found: Callable[[Found], object] = lambda _: None,
        disturb: Callable[["Follower"], object] | None = None,
    ) -> None:
        """Read the start from the stopped target, and set the breakpoints.

        Raises:
            FollowError: if the kernel has not the functions that are needed.
            NestscopeError: if something cannot be read.
        """
        self.session = session
        self.kernel = kernel
        self.report = Report()
        self._on_found = on_found
        self._disturb = disturb
        self._observer = Observer(kernel)
        self._reader = StateReader(kernel, source)
        vcpus = session.execute("-thread-list-ids").record.payload.get("number-of-threads")
        self.checker = Checker(self._observer, self.report.tally, one_vcpu=str(vcpus) == "1")
        self.mirrors = Mirrors(self._reader, self._observer)
        self.entries = Entries(self.mirrors, self.checker)
        self.tracer: Tracer[KernelCall] = Tracer(session, kernel)
        self.start = self._start()
        left_out = () if self._observer.knows_vcpus else OF_VCPUS
        names = [name for name in (*CALLS, *EVENTS) if name not in left_out]
        missing = [*left_out, *self.tracer.follow(names, CALLS)]
        if any(name in missing for name in _NEEDED):
            raise FollowError(
                f"the kernel has no {missing[0]}: load kvm-hv in it, or give --vmlinux, --modules"
            )
        self.report.missing = missing
        self._began = self._due = time.monotonic()

    def _start(self) -> State:
        """Read the start at a moment when nobody holds an `mmu_lock`.

        Raises:
            FollowError: if there is no such moment.
        """
        for _ in range(50):
            state = self.mirrors.start()
            if not any(vm.mmu_lock_held for vm in state.vms):
                return state
            self.mirrors.vms.clear()
            self.session.cont()
            time.sleep(0.02)
            self.session.interrupt()
            self._observer.forget()
        raise FollowError("some vCPU holds an mmu_lock all the time: is the guest hung?")

    def run(self, limits: Limits) -> None:
        """Follow until a limit is reached; the target is stopped then.

        Raises:
            NestscopeError: if the target is gone or cannot be read.
        """
        self._began = time.monotonic()
        self._due = self._began + limits.whole_every
        stop: Stop | None = None
        try:
            while not self._over(limits):
                self.tracer.resume(stop)
                stop = self.tracer.wait(self._patience(limits))
                self.report.stops, self.report.foreign = self.tracer.stops, self.tracer.foreign
                self._observer.forget()
                if self._disturb is not None:
                    self._disturb(self)
                self._handle(stop)
                if time.monotonic() >= self._due:
                    self._due = time.monotonic() + (
                        limits.whole_every if self.compare_all() else _RETRY_SECONDS
                    )
            self.compare_all()
        finally:
            self.report.seconds = time.monotonic() - self._began

    def _patience(self, limits: Limits) -> float:
        until = self._due
        if limits.seconds is not None:
            until = min(until, self._began + limits.seconds)
        return max(0.05, until - time.monotonic())

    def _over(self, limits: Limits) -> bool:
        if limits.calls is not None and self.report.checked >= limits.calls:
            return True
        if (limits.first and self.report.found) or limits.until():
            return True
        return limits.seconds is not None and time.monotonic() - self._began >= limits.seconds

    def _handle(self, stop: Stop) -> None:
        if stop.key is not None:
            self._returned(stop, self.tracer.frames.pop(stop.key))
        elif stop.function in EVENTS:
            self._event(stop)
        elif stop.function:
            self._entered(stop)

    def _event(self, stop: Stop) -> None:
        kvm = stop.argument(1)
        if stop.function == "kvmppc_core_init_vm_hv":
            self.mirrors.made(kvm)
        elif stop.function == "kvmppc_core_destroy_vm_hv":
            self.mirrors.destroyed(kvm)
        elif kvm in self.mirrors.vms:
            self.mirrors.vms[kvm].slots_stale = True

    def _entered(self, stop: Stop) -> None:
        if any(not isinstance(call, NestedTlbie) for call in self.tracer.inside(stop.stack)):
            # Part of a call that is being followed: the model makes it itself.
            self.report.tally.inner += 1
            return
        with self._telling(stop.function):
            call = self.entries.make(stop)
            if call is None:
                return
            self._settle(call)
            if self._another_in_progress(call):
                self.report.tally.unjudged += 1
            else:
                self._tell(stop.function, call.before())
            self.tracer.expect_return(stop, call)

    def _returned(self, stop: Stop, call: KernelCall) -> None:
        name = NAMES[type(call).__name__]
        if self.mirrors.vms.get(call.vm.kvm.address) is not call.vm:
            return  # the VM went meanwhile
        with self._telling(name):
            self._settle(call)
            found = call.after(stop.signed_result())
            if self._another_in_progress(call):
                self.report.tally.unjudged += 1
                found = []
            if isinstance(call, CreatePte) and call.done:
                for other in self.tracer.frames.values():
                    if isinstance(other, NestedTlbie):
                        other.made.add((call.tree.root, call.address))
            self.report.tally.called(name)
            self._tell(name, found)

    def _settle(self, call: KernelCall) -> None:
        for other in self.tracer.frames.values():
            if other.vm is call.vm and other is not call:
                other.settle()

    def _another_in_progress(self, call: KernelCall) -> bool:
        return any(
            other.vm is call.vm and other is not call and other.locked
            for other in self.tracer.frames.values()
        )

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Turn what does not fit or cannot be read into a difference."""
        try:
            yield
        except Unmatched as unmatched:
            self._tell(name, [unmatched.difference])
        except UnreadableMemoryError as error:
            self._tell(name, [Difference(name, "readable memory", str(error))])
        self._tell(name, self.mirrors.take_found())

    def _tell(self, name: str, differences: list[Difference]) -> None:
        for difference in differences:
            found = Found(time.monotonic() - self._began, name, difference)
            self.report.found.append(found)
            self._on_found(found)

    def compare_all(self) -> bool:
        """Compare every VM as a whole; False if the moment was not right for one of them."""
        state = self._reader.read()
        self.mirrors.take_new(state)
        complete = True
        for seen in state.vms:
            vm = self.mirrors.vms.get(seen.kvm)
            if vm is None:
                continue
            calls = [call for call in self.tracer.frames.values() if call.vm is vm]
            if seen.mmu_lock_held or any(call.locked for call in calls):
                complete = False
                continue
            for call in calls:
                call.settle()
            followed = "kvmhv_set_partition_table" not in self.report.missing
            self._tell("", compare_vm(vm, seen, self.report.tally, ptcr_followed=followed))
        for problem in state.problems:
            self._tell("", [Difference(problem.path, "a readable value", problem.message)])
        self._tell("", self.mirrors.take_found())
        if complete:
            self.report.wholes += 1
        return complete


NAMES = {
    "CreatePte": "kvmppc_create_pte",
    "UnmapPte": "kvmppc_unmap_pte",
    "HandleSetRc": "kvmppc_hv_handle_set_rc",
    "UpdateRcList": "kvmhv_update_nest_rmap_rc_list",
    "FreeTree": "kvmppc_free_pgtable_radix",
    "NestedTlbie": "kvmhv_do_nested_tlbie",
    "SetPartitionTable": "kvmhv_set_partition_table",
}
"""The kernel function of each class of calls."""
