"""The library: what the verbs of the command line do, for scripts and notebooks.

`nestscope.open` opens a source, as SOURCE of the command line. What it returns
draws itself: as tables in a terminal that prints it with rich, as HTML in a notebook.

>>> import nestscope
>>> with nestscope.open("sample:6.12-64k") as source:
...     state = source.state()
...     walk = source.walk(0x0, lpid=2)
>>> state.kernel.page_shift, len(state.vms), walk.shadow_agrees
(16, 1, True)
"""

import io
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.audit.finding import Finding
from nestscope.decoders.compare import Difference, Renaming
from nestscope.decoders.compare import compare as compare_states
from nestscope.decoders.state import State
from nestscope.decoders.two_stage import (
    TwoStageWalk,
    choose_vm,
    guest_memory_of,
    host_root,
    walk_guest_address,
    walk_nested_address,
)
from nestscope.plugin.present.findings import finding_document, findings_table
from nestscope.plugin.present.state_view import state_view
from nestscope.plugin.present.walk_tree import walk_tree
from nestscope.plugin.target import Target, open_target

_Kind = TypeVar("_Kind")

_HTML_WIDTH = 110
_HTML = '<pre style="line-height:1.2;font-family:monospace">{code}</pre>'


class Drawn(ABC):
    """Something that draws itself: with rich in a terminal, as HTML in a notebook."""

    @abstractmethod
    def renderable(self) -> RenderableType:
        """Return what rich draws."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.renderable()

    def _repr_html_(self) -> str:
        """Return HTML of its own, as notebooks ask for it."""
        console = Console(record=True, file=io.StringIO(), width=_HTML_WIDTH, highlight=False)
        console.print(self.renderable())
        return console.export_html(inline_styles=True, code_format=_HTML)


class DrawnState(Drawn, State):
    """A `State` that draws itself."""

    def renderable(self) -> RenderableType:
        """Return memslots, nested guests and chains as tables."""
        return Group(*state_view(self))


class DrawnWalk(Drawn, TwoStageWalk):
    """A `TwoStageWalk` that draws itself."""

    def renderable(self) -> RenderableType:
        """Return every stage with every level as a tree."""
        return walk_tree(self)


class Differences(Drawn, tuple[Difference, ...]):
    """The differences between two States: an empty one means that they agree."""

    def renderable(self) -> RenderableType:
        """Return one line a difference."""
        return "\n".join(map(str, self)) if self else "no difference"


class Findings(Drawn, tuple[Finding, ...]):
    """What the audit found: an empty one means that nothing is wrong."""

    def renderable(self) -> RenderableType:
        """Return the findings rule by rule."""
        return findings_table(self) if self else "nothing found"

    def documents(self) -> list[dict[str, Any]]:
        """Return the findings as `check --json` prints them."""
        return [finding_document(each) for each in self]


class Opened:
    """A source that is open: a context manager. A live target is stopped until it is closed."""

    def __init__(self, target: Target, stack: ExitStack) -> None:
        self._target = target
        self._stack = stack
        self._state: DrawnState | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close files and connections; a live target runs on."""
        self._stack.close()

    def state(self) -> DrawnState:
        """Read the State; once, because an open source does not change."""
        if self._state is None:
            self._state = _drawn(DrawnState, self._target.state())
        return self._state

    def check(self, *, rc_by_hardware: bool | None = None) -> Findings:
        """Return what the audit finds, as `nestscope check`.

        `rc_by_hardware`: whether hardware or QEMU set R and C themselves, None if unknown.
        """
        return Findings(audit(self.state(), rc_by_hardware=rc_by_hardware))

    def walk(self, address: int, *, lpid: int | None = None, vm: int | None = None) -> DrawnWalk:
        """Walk a guest real address, or with `lpid` an address of that nested guest.

        `address` in bytes; `lpid` is the guest's name for the nested guest
        (l1_lpid); `vm` counts VMs from 0, where there are several.

        Raises:
            WalkError: if there is no such VM or nested guest.
        """
        target = self._target
        state = self.state()
        chosen = choose_vm(state, vm)
        root = host_root(target.kernel, chosen)
        if lpid is None:
            found = walk_guest_address(target.memory, state, chosen, root, address)
        else:
            guest = guest_memory_of(target.memory, target.kernel, chosen)
            found = walk_nested_address(target.memory, guest, state, chosen, root, lpid, address)
        return _drawn(DrawnWalk, found)


def open_source(
    source: str,
    *,
    vmlinux: str | Path | None = None,
    modules: str | Path | None = None,
    profile: str | Path | None = None,
    debug: str | Path | None = None,
) -> Opened:
    """Open a dump, `ram:FILE`, `gdb:HOST:PORT` or `sample:NAME`.

    The other arguments describe the kernel where the source itself does not;
    they are those of the command line.

    Raises:
        NestscopeError: if it cannot be opened; the text says what to do.
    """
    stack = ExitStack()
    given = (None if each is None else Path(each) for each in (vmlinux, modules, profile, debug))
    target = stack.enter_context(open_target(str(source), *given))
    return Opened(target, stack)


def compare(expected: State, observed: State) -> Differences:
    """Return how two States differ, up to a one-to-one renaming of host addresses.

    >>> import nestscope
    >>> with nestscope.open("sample:6.12-64k") as source:
    ...     state = source.state()
    >>> nestscope.compare(state, state)
    ()
    """
    return Differences(compare_states(expected, observed, Renaming()))


def _drawn(kind: type[_Kind], plain: Any) -> _Kind:
    """Return the dataclass `plain` as its subclass `kind`, sharing all members."""
    return kind(**{each.name: getattr(plain, each.name) for each in fields(plain)})
