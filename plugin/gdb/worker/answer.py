"""What a command was asked for, and what it answers: a view for people, a document, a value."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType

from nestscope.decoders.state import Problem
from nestscope.decoders.state_json import problem_document
from nestscope.plugin.gdb.inside.wire import Message
from nestscope.plugin.gdb.worker.kernel_view import KernelView, VmAt
from nestscope.plugin.gdb.worker.session import Opened, Session

Document = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """`value` is for convenience functions: a number, a text, or None."""

    document: Document = field(default_factory=dict)
    views: tuple[RenderableType, ...] = ()
    value: int | str | None = None


class Request:
    """A command with its arguments; opens the target when it is first needed."""

    def __init__(self, session: Session, command: Message) -> None:
        self.session = session
        self.arguments: Message = command["arguments"]
        self._target: Message | None = command.get("target")
        self._opened: Opened | None = None

    def number(self, name: str) -> int | None:
        """Return a numeric argument, None if it was not given."""
        value = self.arguments.get(name)
        return None if value is None else int(value)

    def needed(self, name: str) -> int:
        """Return a numeric argument that the command line makes sure of."""
        return int(self.arguments[name])

    def flag(self, name: str) -> bool:
        """Say whether an option was given."""
        return bool(self.arguments.get(name))

    @property
    def opened(self) -> Opened:
        """The target.

        Raises:
            NestscopeError: if it cannot be examined.
        """
        if self._opened is None:
            assert self._target is not None
            self._opened = self.session.open(self._target)
        return self._opened

    @property
    def view(self) -> KernelView:
        """The target's kernel."""
        return self.opened.view

    def radix_vm(self) -> VmAt:
        """Return the VM that `--vm` chooses, which must have a nested rmap."""
        return self.view.radix_vm(self.number("vm"))


def rendered(views: Iterable[RenderableType], width: int, *, color: bool) -> str:
    """Return views as text for a terminal of `width` columns."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        legacy_windows=False,
    )
    for view in views:
        console.print(view)
    return out.getvalue()


def problem_documents(problems: Iterable[Problem]) -> list[Document]:
    """Return what could not be read, as `nestscope.state/1` has it."""
    return [problem_document(problem) for problem in problems]
