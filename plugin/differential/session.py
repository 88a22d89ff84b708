"""A comparison with everything it needs: lab, kernel, bridge, guest, model."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum

from nestscope.decoders.kernel.kernel import Kernel, open_kernel
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.sources.ram import RamFile
from nestscope.decoders.state import Source
from nestscope.plugin.differential.lab_machine import LabMachine
from nestscope.plugin.differential.runner import Comparison
from nestscope.plugin.mi.memory import GdbMemory
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.facts import HostFacts, MemoryHabits
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.model import Model


class Via(StrEnum):
    """How the kernel's memory is read.

    `ram`: QEMU's shared RAM file, while the machine runs. `mi`: the machine is
    stopped through GDB/MI, and QEMU, commanded through it, writes the bytes to files
    that both see. `mi-packets`: the same, but every byte comes in a packet of the
    gdbstub, as from another host: slow, because GDB handles 10 to 15 MB/s.
    """

    RAM = "ram"
    MI = "mi"
    MI_PACKETS = "mi-packets"


@dataclass(frozen=True)
class LiveComparison:
    """A comparison and the parts of it that tools beside the runner need."""

    comparison: Comparison
    machine: LabMachine
    lab: Lab
    session: GdbSession | None


@dataclass(frozen=True)
class LiveMachine:
    """A booted lab as a machine that executes events, and the bridge it is read through."""

    machine: LabMachine
    session: GdbSession | None


@contextmanager
def open_machine(lab: Lab, via: Via = Via.RAM) -> Iterator[LiveMachine]:
    """Examine the kernel of a booted lab, and read it through `via`.

    Raises:
        NestscopeError: if something is missing or fails.
    """
    files = lab.kernel
    with ExitStack() as stack:
        session: GdbSession | None = None
        memory: Memory
        if via is not Via.RAM:
            session = stack.enter_context(GdbSession.connect(lab.gdb_socket, files.vmlinux))
            spool = lab.run_folder if via is Via.MI else None
            memory = stack.enter_context(closing(GdbMemory(session, spool=spool)))
            source = Source("gdb", str(lab.gdb_socket))
        else:
            memory = stack.enter_context(RamFile(lab.ram_path))
            source = Source("ram", str(lab.ram_path))
        kernel = open_kernel(memory, files.vmlinux, files.modules_dir)
        if session is not None:
            session.cont()
        yield LiveMachine(LabMachine(lab, kernel, LAYOUT, source, session), session)


def host_facts(lab: Lab, kernel: Kernel) -> HostFacts:
    """Return what the model is told about the lab's host: probed, or the machine's nature.

    Raises:
        LabError: if the lab has a VM already and was not probed before.
    """
    bare_metal = lab.machine.bare_metal
    hello, habits = lab.agent.must(["hello", "habits"])
    return HostFacts(
        page_shift=kernel.page_shift,
        rc_by_hardware=lab.behaviour.sets_rc,
        tlbie_shifts=lab.behaviour.tlbie_shifts,
        # There the processor enters nested guests, and not QEMU's H_ENTER_NESTED.
        hisi_flags_visible=bare_metal,
        system_call_level_visible=lab.behaviour.shows_level,
        reads_instructions=bare_metal,
        pseries=not bare_metal,
        release=kernel.release,
        ages_by_reclaim=not hello["damon"],
        habits=MemoryHabits(
            has_huge_pages=bool(habits["huge"]),
            split_to_zero_page=bool(habits["zero"]),
            split_cleans=bool(habits["clean"]),
            huge_stays_readonly=bool(habits["readonly"]),
            reuses_last_part=bool(habits["last"]),
            reuses_parts=bool(habits["parts"]),
            split_sets_soft_dirty=bool(habits["softsplit"]),
            migration_sets_soft_dirty=bool(habits["softmove"]),
        ),
        mended=lab.kernel.mended,
    )


@contextmanager
def open_comparison(lab: Lab, via: Via = Via.RAM) -> Iterator[LiveComparison]:
    """Put a guest into a booted lab that has no VM, and a model of that guest beside it.

    Raises:
        NestscopeError: if something is missing or fails.
    """
    with open_machine(lab, via) as live:
        model = Model(host_facts(lab, live.machine.kernel), LAYOUT)
        comparison = Comparison(Guest(LAYOUT), model, live.machine)
        comparison.start()
        yield LiveComparison(comparison, live.machine, lab, live.session)
