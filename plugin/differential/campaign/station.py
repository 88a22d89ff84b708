"""A station: one lab machine that runs program after program, each in a clean VM."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from nestscope.plugin.differential.campaign.signal import CoverageSource, StepSignal
from nestscope.plugin.differential.campaign.tasks import Options, Target
from nestscope.plugin.differential.lab_machine import LabMachine
from nestscope.plugin.differential.runner import Comparison
from nestscope.plugin.differential.session import LiveMachine, Via, host_facts, open_machine
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.kernels import choose_kernel
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.model import Model

KERNEL_COVERAGE = "kernel"
"""`Options.coverage`: the basic blocks of the kernel choose the corpus, too."""

_BUILD_DIGITS = 7


@dataclass
class Booted:
    """A booted machine, what the model is told of it, and how many warnings were looked at."""

    lab: Lab
    live: LiveMachine
    facts: HostFacts
    warnings: int = 0
    coverage: CoverageSource | None = None
    struck: bool = False
    _session: GdbSession | None = None

    @contextmanager
    def debugger(self) -> Iterator[GdbSession]:
        """Hold the machine stopped in GDB, to write to it; GDB stays until `close`.

        Raises:
            MiError: if GDB is not there.
        """
        session = self.live.session or self._session
        if session is None:
            session = GdbSession.connect(self.lab.gdb_socket, self.lab.kernel.vmlinux)
            self._session = session
            session.cont()
        with session.stopped():
            yield session

    def close(self) -> None:
        """End the GDB that `debugger` started."""
        if self._session is not None:
            self._session.close()

    @property
    def machine(self) -> LabMachine:
        """What executes events."""
        return self.live.machine

    def new_warnings(self) -> list[str]:
        """Return the kernel's WARNINGs since the last call."""
        seen = self.lab.warnings()
        new, self.warnings = seen[self.warnings :], len(seen)
        return new


Prepare = Callable[[Booted], None]
"""Something to be done to a kernel that was just booted."""

Strike = Callable[[Booted, int], None]
"""Something to be done to the kernel's memory in a step of every program, by its number."""


@contextmanager
def kernel_blocks(booted: Booted) -> Iterator[CoverageSource]:
    """Watch the basic blocks of the kernel's nested and radix functions.

    Raises:
        NestscopeError: if the lab counts nothing, or capstone is missing.
    """
    # It needs capstone, which a campaign without it does not.
    from nestscope.plugin.differential.coverage.coverage import open_coverage  # noqa: PLC0415

    with open_coverage(booted.lab, booted.live.machine.kernel) as coverage:
        yield _KernelBlocks(coverage, int(coverage.text.build_id[:_BUILD_DIGITS], 16))


@dataclass(frozen=True)
class _KernelBlocks:
    """Blocks as numbers that no block of another build of the module has."""

    coverage: CoverageSource
    build: int

    def new_blocks(self) -> frozenset[int]:
        """Return the blocks that ran since the last call and never before."""
        return frozenset(self.build << 32 | at for at in self.coverage.new_blocks())


@dataclass
class Station:
    """Boots a target when it is needed, resets it between programs, reboots it after a failure.

    `prepare` are called for every boot, `strikes` in every step before the State is
    read: how a seeded defect gets into the kernel.
    """

    target: Target
    options: Options
    prepare: Sequence[Prepare] = ()
    strikes: Sequence[Strike] = ()
    signal: StepSignal = field(default_factory=StepSignal)
    _stack: ExitStack | None = None
    _booted: Booted | None = None
    _retired: bool = False

    def booted(self) -> Booted:
        """Return the machine; boot it if there is none.

        Raises:
            NestscopeError: if it cannot be booted.
        """
        if self._retired:
            self.close()
        if self._booted is None:
            files = choose_kernel(self.target.kernel, None, None)
            with ExitStack() as stack:
                lab = stack.enter_context(
                    Lab.boot(
                        files,
                        machine=self.target.machine,
                        qemu=self.options.qemu,
                        coverage=self.options.coverage == KERNEL_COVERAGE,
                    )
                )
                live = stack.enter_context(open_machine(lab, Via(self.options.via)))
                booted = Booted(lab, live, host_facts(lab, live.machine.kernel))
                stack.callback(booted.close)
                if self.options.coverage == KERNEL_COVERAGE:
                    booted.coverage = stack.enter_context(kernel_blocks(booted))
                for prepare in self.prepare:
                    prepare(booted)
                self._stack = stack.pop_all()
            self._booted = booted
        return self._booted

    def fresh(self) -> Comparison:
        """Make a new VM in the machine and a new model beside it.

        The reset: `destroy` ends the VM and frees its memory (4 ms), then one is made.
        """
        booted = self.booted()
        booted.lab.agent.must(["destroy"])
        booted.new_warnings()
        comparison = Comparison(Guest(LAYOUT), Model(booted.facts, LAYOUT), booted.machine)
        comparison.start()
        self.signal.begin()
        return comparison

    def new_blocks(self) -> frozenset[int]:
        """Return what programs reached since the last call and none before on this machine."""
        new = self.signal.new_blocks()
        source = self._booted.coverage if self._booted is not None else None
        return new if source is None else new | source.new_blocks()

    @property
    def lab(self) -> Lab | None:
        """The machine as the last program left it, even if it failed; None without one."""
        return self._booted.lab if self._booted is not None else None

    def retire(self) -> None:
        """Keep a machine that failed for a look at it; the next program boots another."""
        self._retired = True

    def disturbance(self, number: int) -> Callable[[], object] | None:
        """Return what disturbs step `number`, None if nothing does."""
        if not self.strikes:
            return None
        booted = self.booted()
        return lambda: [strike(booted, number) for strike in self.strikes]

    def close(self) -> None:
        """End the machine; bounded, and may be called twice."""
        stack, self._stack, self._booted, self._retired = self._stack, None, None, False
        if stack is not None:
            stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
