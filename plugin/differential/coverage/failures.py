"""Let allocations of the live kernel fail, one at a time, through GDB.

Debian's kernels are built without CONFIG_FAULT_INJECTION. So the call is skipped:
where it is about to be made, r3 becomes 0, which is what it would return, and the
program counter goes on behind it. Code and data of the kernel stay as they are.

The `nop` of the file behind a call into another module is, in the loaded module, what
restores r2 from the stack, where the skipped call would have put it (ELFv2 ABI, TOC
save slot): it is skipped, too.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from nestscope.plugin.differential.coverage.blocks import WORD, FunctionBlocks
from nestscope.plugin.differential.coverage.coverage import load_address
from nestscope.plugin.differential.lab_machine import LabMachine
from nestscope.plugin.mi.errors import GdbTimeoutError
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.errors import LabError, LabFailure
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Load, Map, Operation, SetPartitionTable, permission_bits

# The names of slab allocation since 6.1, and before "mm/slab: memory allocation profiling".
_ALLOCATORS = ("kmem_cache_alloc", "__kmalloc", "kmalloc", "kzalloc")
_POLL_SECONDS = 0.2
_PAGE = LAYOUT.data
_FIRST, _FRESH = 0x100_0000, 1 << 39
_RWX = permission_bits("rwxRC")

_PREPARE: tuple[Operation, ...] = (
    SetPartitionTable(LAYOUT.ptcr),
    Map(1, _FIRST, _PAGE, 16, _RWX),
    Load(1, _FIRST),
    Map(1, _FRESH, _PAGE, 16, _RWX),
)
# The host's leaf is there; the shadow tree needs tables of all levels, and an rmap entry.
_FAULT: Operation = Load(1, _FRESH)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an allocator: its offset, and that of where the code goes on without it."""

    offset: int
    resume: int


def allocations(some: FunctionBlocks) -> list[Call]:
    """Return the calls of an allocator in a function."""
    code = [instruction for block in some.blocks for instruction in block.instructions]
    return [
        Call(call.offset, call.offset + (2 * WORD if behind.text == "nop" else WORD))
        for call, behind in pairwise(code)
        if call.text.startswith("bl ") and call.text.split()[-1].startswith(_ALLOCATORS)
    ]


def fail_allocations(lab: Lab, machine: LabMachine, functions: Iterable[FunctionBlocks]) -> int:
    """Let each call of an allocator in some functions fail once, in a VM of its own.

    Returns:
        how many of the calls were about to be made, and failed.

    Raises:
        NestscopeError: if GDB is missing, or the machine fails.
    """
    failed = 0
    calls = [
        (load_address(machine.kernel, some.function) - some.function.offset, call)
        for some in functions
        for call in allocations(some)
    ]
    with GdbSession.connect(lab.gdb_socket, lab.kernel.vmlinux) as session:
        session.cont()
        for base, call in calls:
            guest = Guest()
            machine.execute(guest.setup())
            for operation in _PREPARE:
                machine.execute(guest.lower(operation))
            with _breakpoint(session, base + call.offset):
                failed += _skip_once(session, base + call.resume, partial(_fault, machine, guest))
            lab.agent.must(["destroy"])
    return failed


def _fault(machine: LabMachine, guest: Guest) -> None:
    try:
        machine.execute(guest.lower(_FAULT))
    except LabFailure:
        raise
    except LabError:
        return  # the agent's KVM_RUN failed with the kernel's -ENOMEM: what is wanted here


@contextmanager
def _breakpoint(session: GdbSession, address: int) -> Iterator[None]:
    with session.stopped():
        number = session.break_at(address)
    try:
        yield
    finally:
        with session.stopped():
            session.delete_breakpoint(number)


def _skip_once(session: GdbSession, resume: int, work: Callable[[], None]) -> bool:
    """Do `work` in a thread, skip the call when the kernel arrives there; say whether it did."""
    errors: list[BaseException] = []
    skipped = False

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="failing allocation")
    thread.start()
    # Bounded: the agent's answers are, and the machine is let run after every stop.
    while thread.is_alive():
        try:
            session.wait_stop(_POLL_SECONDS)
        except GdbTimeoutError:
            continue
        if not skipped:
            session.execute("-gdb-set var $r3=0")
            session.execute(f"-gdb-set var $pc={resume:#x}")
            skipped = True
        session.cont()
    thread.join()
    if errors:
        raise errors[0]
    return skipped
