"""A pool without machines: a function answers every task."""

from collections.abc import Callable, Sequence

from nestscope.plugin.differential.campaign.tasks import (
    Failed,
    ProgramResult,
    RunTask,
    ShrinkTask,
    ShrunkFinding,
    Task,
    TaskResult,
)
from nestscope.plugin.differential.campaign.trouble import Trouble

Answer = Callable[[str, Task], TaskResult]


def trouble(signature: str = "difference vms.lpid: N") -> Trouble:
    return Trouble("difference", signature, f"seen: {signature}")


def clean(task: Task) -> TaskResult:
    """Answer a task as a machine without faults does; what is shrunk becomes two operations."""
    if isinstance(task, ShrinkTask):
        seen = trouble(task.signature)
        return ShrunkFinding(seen, task.operations[:2], 5, 0.1, True, "6.12", {"console.log": b""})
    return ProgramResult(len(task.operations), 0.5, task.operations)


def in_trouble(task: RunTask, signature: str = "difference vms.lpid: N") -> ProgramResult:
    return ProgramResult(3, 0.5, task.operations[:3], trouble(signature))


class FakePool:
    """Answers at the next `wait`; remembers what was asked of whom."""

    def __init__(self, slots: int, answer: Answer) -> None:
        self._slots = [f"job {number}" for number in range(1, slots + 1)]
        self._answer = answer
        self._waiting: dict[str, Task] = {}
        self.asked: list[tuple[str, Task]] = []

    @property
    def slots(self) -> Sequence[str]:
        return self._slots

    def submit(self, slot: str, task: Task) -> None:
        assert slot not in self._waiting, "one task at a time"
        self._waiting[slot] = task
        self.asked.append((slot, task))

    def wait(self, seconds: float) -> list[tuple[str, TaskResult]]:
        assert seconds < 1, "the terminal is looked after in between"
        ended = [(slot, self._answer(slot, task)) for slot, task in self._waiting.items()]
        self._waiting.clear()
        return ended

    def close(self) -> None:
        self._waiting.clear()

    def programs(self) -> list[str]:
        return [task.name for _, task in self.asked if isinstance(task, RunTask)]


def lost(_slot: str, _task: Task) -> TaskResult:
    return Failed("QEMU ended (signal 9)", "lost")
