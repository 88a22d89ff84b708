"""The lab as the machine of a comparison: events through its agent, States from its memory."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.read_state import StateReader
from nestscope.decoders.state import Source, State
from nestscope.plugin.differential.order.model import Ran
from nestscope.plugin.differential.vmm_commands import vmm_command
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.channel import Reply
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.constants import U64
from nestscope.sim.events import (
    Access,
    AdviseHuge,
    CreateVm,
    DestroyVm,
    Discard,
    Event,
    GetDirtyLog,
    Hcall,
    LoadCode,
    Migrate,
    Result,
    Write,
)
from nestscope.sim.layout import VCPUS, GuestLayout
from nestscope.sim.places import Turn

_ACCESS_CODES = {"load": 0, "store": 1, "fetch": 2}
_WRITE_LIMIT = 4096
_NESTED_ENTRY = 0
_HUGE_REFUSED = "hugerefused"


class LabMachine:
    """A booted lab whose kernel executes events and whose memory is read after each step.

    With a `session` the machine is stopped through GDB for every read. Without
    one it is read while it runs: the agent is idle between events, and nothing
    else in that kernel touches the VM.
    """

    def __init__(
        self,
        lab: Lab,
        kernel: Kernel,
        layout: GuestLayout,
        source: Source,
        session: GdbSession | None = None,
    ) -> None:
        self.kernel = kernel
        self._lab = lab
        self._agent = lab.agent
        self._layout = layout
        self._session = session
        self._huge_pages = False
        self._reader = StateReader(kernel, source)

    def execute(self, events: Sequence[Event]) -> list[Result]:
        """Execute events in the kernel.

        Raises:
            RefusedError: if the agent refuses the first one, and so all.
            LabError: if it refuses a later one.
            LabFailure: if the machine fails.
        """
        programs = [self._program(event) for event in events]
        lines = [line for program in programs for line in program]
        replies = iter(self._agent.must(each_after_the_other(lines)))
        results = []
        for event, program in zip(events, programs, strict=True):
            answers = [next(replies) for _ in program]
            asked = program[-1] == _HUGE_REFUSED
            result = self._result(event, answers[:-1] if asked else answers)
            results.append(result._replace(huge_refused=answers[-1]["count"]) if asked else result)
        return results

    def _program(self, event: Event) -> list[str]:
        """Return an event's commands; where huge pages are allowed, ask how many were refused."""
        if isinstance(event, CreateVm):
            self._huge_pages = False
        self._huge_pages |= isinstance(event, AdviseHuge) and event.on
        return self._commands(event) + [_HUGE_REFUSED] * self._huge_pages

    def execute_together(self, events: Sequence[Event]) -> list[Result]:
        """Execute events at the same time: hypercalls on their vCPUs, one event of the VMM.

        Raises:
            RefusedError: if the agent refuses one; then it does none.
            LabError: if the agent cannot do one.
            LabFailure: if the machine fails.
        """
        calls = [event for event in events if isinstance(event, Hcall | Access)]
        meanwhile = [line for e in events if e not in calls for line in self._commands(e)]
        lines = [f"queue {event.vcpu} {self._commands(event)[0]}" for event in calls]
        lines.append(" ".join(["together", *meanwhile]))
        lines += [f"answer {event.vcpu}" for event in calls]
        replies = self._agent.must(each_after_the_other(lines), prepared=len(calls))
        answers = iter(replies[len(calls) + 1 :])
        together = replies[len(calls)]
        return [self._result(e, [next(answers) if e in calls else together]) for e in events]

    def execute_order(
        self, parts: Sequence[Sequence[Event]], turns: Sequence[Sequence[Turn]]
    ) -> Ran:
        """Execute the events of each operation in turns (`sim.order`).

        Raises:
            OrderError: if the kernel cannot be led so.
            LabFailure: if the machine fails.
        """
        # Needs capstone, which only coverage and orders do.
        from nestscope.plugin.differential.order.live import lead  # noqa: PLC0415

        programs = [[self._commands(event) for event in part] for part in parts]
        lines = [[line for commands in program for line in commands] for program in programs]
        told, states = lead(self._lab, self.kernel, self._session, self.state, lines, turns)
        results = [
            [
                self._result(event, [next(answers) for _ in commands])
                for event, commands in zip(part, program, strict=True)
            ]
            for part, program, answers in zip(parts, programs, map(iter, told), strict=True)
        ]
        return Ran(results, states)

    def read_page(self, number: int, offset: int, length: int) -> bytes:
        """Read bytes of a host page, through the kernel's linear map."""
        address = LINEAR_START | (number << self.kernel.page_shift) + offset
        with self.stopped():
            return self.kernel.memory.read(address, length)

    def state(self) -> State:
        """Read the kernel's State now."""
        with self.stopped():
            return self._reader.read()

    def stopped(self) -> AbstractContextManager[object]:
        """Keep the machine stopped, if it is read through GDB."""
        return nullcontext() if self._session is None else self._session.stopped()

    def _commands(self, event: Event) -> list[str]:
        layout = self._layout
        match event:
            case CreateVm():
                return ["vm"]
            case LoadCode():
                return [
                    f"vcpu {VCPUS}",
                    f"stub {layout.code:#x} {layout.mailbox:#x}",
                    f"payload {layout.payload:#x}",
                ]
            case Write(gpa, data):
                return [
                    f"write {gpa + at:#x} {data[at : at + _WRITE_LIMIT].hex()}"
                    for at in range(0, len(data), _WRITE_LIMIT)
                ]
            case Hcall(number, arguments):
                return [" ".join([f"hcall {number:#x}", *(hex(value) for value in arguments)])]
            case Access(l1_lpid, kind, address, value, vcpu):
                return [
                    f"enter {l1_lpid} {_NESTED_ENTRY:#x} {address:#x} {_ACCESS_CODES[kind]} "
                    f"{value:#x} {layout.of_vcpu(vcpu).state:#x}"
                ]
            case Discard(gpa, length):
                return [f"discard {gpa:#x} {length:#x}"]
        return [vmm_command(event)]

    def _result(self, event: Event, replies: Sequence[Reply]) -> Result:
        match event:
            case Hcall():
                return Result(ret=replies[0]["ret"])
            case Access(kind=kind):
                reply = replies[0]
                names = ("ret", "r3", "nip", "msr", "hdar", "hdsisr", "asdr")
                return Result(
                    value=reply["r5"] if kind == "load" else None,
                    **{name: reply[name] for name in names},
                )
            case GetDirtyLog():
                reply = replies[0]
                bitmap = None if reply["ret"] else int.from_bytes(reply.data, "little")
                return Result(ret=reply["ret"] & U64, value=bitmap)
            case Migrate():
                return Result(value=replies[0]["moved"])
            case CreateVm() | LoadCode() | DestroyVm():
                return Result()
        refused = (reply["ret"] for reply in replies if reply["ret"])
        return Result(ret=next(refused, 0) & U64)


def each_after_the_other(lines: Sequence[str]) -> list[str]:
    """Return commands of which none is done after one that was refused."""
    return [line if number == 0 else f"and {line}" for number, line in enumerate(lines)]
