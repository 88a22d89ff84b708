"""Run an order on a booted lab, through a GDB of its own that is gone afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.state import State
from nestscope.plugin.differential.order.conductor import Conductor, Operation
from nestscope.plugin.differential.order.sites import Sites
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.channel import Reply
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.order import vcpus_of
from nestscope.sim.places import Turn


def lead(
    lab: Lab,
    kernel: Kernel,
    session: GdbSession | None,
    read_state: Callable[[], State],
    programs: Sequence[Sequence[str]],
    turns: Sequence[Sequence[Turn]],
) -> tuple[list[list[Reply]], list[State]]:
    """Run programs of the agent's commands in turns.

    Returns the replies of each, and the State after each turn, when all are held.
    `session` is a GDB that is connected already.

    Raises:
        OrderError: if the kernel cannot be led so.
        PlaceError: if it has no such place.
        LabFailure: if the machine fails.
    """
    operations = [
        Operation("; ".join(program)[:80], worker, list(program), list(places))
        for program, worker, places in zip(programs, vcpus_of(turns), turns, strict=True)
    ]
    sites = Sites(kernel, lab.kernel.modules_dir, lab.kernel.vmlinux)
    with _connected(lab, session) as gdb:
        states = Conductor(gdb, lab.agent, sites, read_state).run(operations)
    return [operation.replies for operation in operations], states


@contextmanager
def _connected(lab: Lab, session: GdbSession | None) -> Iterator[GdbSession]:
    if session is not None:
        yield session
        return
    with GdbSession.connect(lab.gdb_socket, lab.kernel.vmlinux) as own:
        own.cont()
        yield own
