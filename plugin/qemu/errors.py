"""Errors of the lab."""

from typing import Literal

from nestscope.decoders.errors import NestscopeError

FailureKind = Literal["oops", "panic", "died", "hung"]


class LabError(NestscopeError):
    """The lab cannot be set up or used: one sentence, and what to do."""


class RefusedError(LabError):
    """The agent refused a command because of its arguments, and nothing was changed by it."""


class LabFailure(NestscopeError):  # noqa: N818  (a result of a run, not a mistake of the user)
    """The machine failed while it was used.

    `kind` is "oops" (the kernel printed an oops or BUG), "panic", "died"
    (QEMU or the agent ended) or "hung" (no answer, a stall, a stopped machine).
    `tail` is the end of the console log.
    """

    def __init__(self, kind: FailureKind, what: str, tail: str) -> None:
        lines = tail.rstrip().splitlines()
        shown = "\n".join(f"  | {line}" for line in lines)
        super().__init__(f"{kind}: {what}" + (f"; the console ends with\n{shown}" if lines else ""))
        self.kind: FailureKind = kind
        self.what = what
        self.tail = tail
