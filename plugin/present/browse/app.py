"""The browser: a tree of what there is on the left, a table and a walk on the right.

Everything shown comes from `views`; this module only places it on the screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import DataTable, Footer, Header, Input, Static, Tree

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.state import State
from nestscope.decoders.two_stage import TwoStageWalk
from nestscope.plugin.present.browse.place import parse_place
from nestscope.plugin.present.browse.views import Row, View, views
from nestscope.plugin.present.walk_tree import walk_tree

WINDOW = 500
"""Rows that the table holds at a time; `[` and `]` turn the pages."""


@dataclass(frozen=True)
class Snapshot:
    """A State and what the audit says of it, as rows of rule, severity, message, place."""

    state: State
    findings: Sequence[Row]


class Subject(Protocol):
    """What is browsed: read again at each refresh."""

    name: str

    def read(self) -> Snapshot:
        """Read it now.

        Raises:
            NestscopeError: if it cannot be read.
        """
        ...

    def walk(self, address: int, lpid: int | None, vm: int) -> TwoStageWalk:
        """Walk an address. Like `read` it is called beside the screen, maybe at the same time.

        Raises:
            NestscopeError: if there is nothing to walk.
        """
        ...


class Browser(App[None]):
    """Browses a subject.

    `every`: seconds between refreshes, 0 for none. `first`: a snapshot that was taken
    already; without one the screen is empty until the first is there.
    """

    TITLE = "nestscope"
    AUTO_FOCUS = "#table"
    CSS = """
    #left { width: 34; border-right: solid $primary; }
    #table { height: 1fr; border-top: solid $primary; }
    #walk { height: auto; max-height: 60%; border-top: solid $primary; }
    #walk.empty { display: none; }
    #ask { display: none; dock: bottom; }
    #ask.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("g", "ask('place')", "Go to address"),
        ("slash", "ask('text')", "Search"),
        ("n", "search_on", "Next hit"),
        ("r", "refresh", "Read again"),
        ("left_square_bracket", "page(-1)", "Page up"),
        ("right_square_bracket", "page(1)", "Page down"),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, subject: Subject, every: float = 0, first: Snapshot | None = None) -> None:
        super().__init__()
        self._subject = subject
        self._every = every
        self._given = first
        self._reading = False
        self._trouble = ""
        self._views: dict[str, View] = {}
        self._shown = ""
        self._first = 0
        self._asked = ""
        self._sought = ""

    def compose(self) -> ComposeResult:
        """Place the widgets."""
        yield Header()
        with Horizontal():
            tree: Tree[str] = Tree("views", id="left")
            tree.show_root = False
            yield tree
            with Vertical():
                yield DataTable(id="table", cursor_type="row", zebra_stripes=True)
                with VerticalScroll(id="walk", classes="empty"):
                    yield Static(id="steps")
        yield Input(id="ask")
        yield Footer()

    def on_mount(self) -> None:
        """Show what was read, or read the subject for the first time."""
        if self._given is None:
            self.action_refresh()
        else:
            self._take(self._given)
        if self._every:
            self.set_interval(self._every, self._refresh)

    def action_refresh(self) -> None:
        """Read again, and say so if that fails again."""
        self._trouble = ""
        self._refresh()

    def _refresh(self) -> None:
        """Begin to read, unless a reading is going on: some take longer than the interval."""
        if not self._reading:
            self._reading = True
            self._read()

    @work(thread=True)
    def _read(self) -> None:
        """Read beside the screen, and keep the place that is shown."""
        try:
            snapshot = self._subject.read()
        except NestscopeError as error:
            self.call_from_thread(self._read_failed, error)
        else:
            self.call_from_thread(self._take, snapshot)
        finally:
            self._reading = False

    def _read_failed(self, error: NestscopeError) -> None:
        """Say why, once for all refreshes that fail alike."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._complain(error)

    def _complain(self, error: NestscopeError) -> None:
        self.notify(escape(str(error)), severity="error")

    def _take(self, snapshot: Snapshot) -> None:
        state = snapshot.state
        self._trouble = ""
        self.sub_title = f"{self._subject.name}  {state.kernel.release or 'unknown kernel'}"
        before = list(self._views)
        self._views = {view.key: view for view in views(state, snapshot.findings)}
        if before != list(self._views):
            self._grow_tree(state)
        else:
            for node in _leaves_of(self.query_one("#left", Tree)):
                if node.data:
                    node.set_label(self._views[node.data].title)
        start = self._shown if self._shown in self._views else self._first_view()
        self._show(start, self._first, self.query_one("#table", DataTable).cursor_row)

    def _first_view(self) -> str:
        """Return what is shown first: the first rmap, else whatever there is."""
        return next((key for key in self._views if ".rmap" in key), next(iter(self._views)))

    def _grow_tree(self, state: State) -> None:
        tree: Tree[str] = self.query_one("#left", Tree)
        tree.clear()
        branches = {
            number: tree.root.add(f"VM {vm.kvm:#x}", expand=True)
            for number, vm in enumerate(state.vms)
        }
        for view in self._views.values():
            branch = tree.root if view.vm is None else branches[view.vm]
            branch.add_leaf(view.title, data=view.key)
        tree.root.expand()

    def _show(self, key: str, first: int = 0, cursor: int = 0) -> None:
        view = self._views[key]
        table = self.query_one("#table", DataTable)
        self._shown = key
        self._first = max(0, min(first, view.length - 1)) // WINDOW * WINDOW
        table.clear(columns=True)
        table.add_columns(*view.columns)
        # A cell may hold text from memory, brackets included.
        table.add_rows(map(escape, row) for row in view.rows(self._first, WINDOW))
        end = min(self._first + WINDOW, view.length)
        where = f"rows {self._first + 1} to {end} of {view.length}" if view.length else "empty"
        table.border_title = f"{view.title}: {where}"
        if table.row_count:
            table.move_cursor(row=max(0, min(cursor, table.row_count - 1)))

    def on_tree_node_selected(self, event: Tree.NodeSelected[str]) -> None:
        """Show the table that was chosen on the left."""
        if event.node.data:
            self._show(event.node.data)
            self.query_one("#table").focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Walk the address of the row that was chosen."""
        view = self._views[self._shown]
        address = view.walks(self._first + event.cursor_row)
        if address is not None and view.vm is not None:
            self._walk(address, view.nested, view.vm)

    @work(thread=True, exclusive=True, group="walk")
    def _walk(self, address: int, lpid: int | None, vm: int) -> None:
        """Walk beside the screen: a live target may take a while."""
        shown: RenderableType
        try:
            shown = walk_tree(self._subject.walk(address, lpid, vm))
        except NestscopeError as error:
            shown = Text(str(error))
        self.call_from_thread(self._show_walk, shown)

    def _show_walk(self, shown: RenderableType) -> None:
        self.query_one("#walk").remove_class("empty")
        self.query_one("#steps", Static).update(shown)

    def action_ask(self, what: str) -> None:
        """Open the line for an address or a text."""
        ask = self.query_one("#ask", Input)
        if not self._views:
            return  # nothing was read yet
        self._asked = what
        ask.placeholder = (
            "an address: 0x910000, or 2:0x1000000 for one of nested guest 2"
            if what == "place"
            else "any text of this table"
        )
        ask.value = ""
        ask.add_class("open")
        ask.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go where the line says."""
        event.input.remove_class("open")
        self.query_one("#table").focus()
        if self._asked == "place":
            self._go(event.value)
        else:
            self._sought = event.value
            self._search(self._first + self.query_one("#table", DataTable).cursor_row)

    def key_escape(self) -> None:
        """Close the line."""
        self.query_one("#ask").remove_class("open")
        self.query_one("#table").focus()

    def _go(self, text: str) -> None:
        """Walk an address, and show the chain or the leaf that covers it."""
        try:
            place = parse_place(text)
        except NestscopeError as error:
            self._complain(error)
            return
        vm = self._views[self._shown].vm or 0
        suffix = ".rmap" if place.lpid is None else f".shadow{place.lpid}"
        for view in self._views.values():
            own = view.key.startswith(f"vm{vm}.")
            wanted = view.key.endswith(suffix) if place.lpid is not None else suffix in view.key
            row = view.find(place.address) if own and wanted else None
            if row is not None:
                self._show(view.key, row, row % WINDOW)
                break
        self._walk(place.address, place.lpid, vm)

    def action_search_on(self) -> None:
        """Go to the next row that holds the text of the last search."""
        self._search(self._first + self.query_one("#table", DataTable).cursor_row + 1)

    def _search(self, start: int) -> None:
        if not self._sought or not self._views:
            return
        view = self._views[self._shown]
        row = view.search(self._sought, start) if view.length else None
        if row is None:
            text = escape(f"{self._sought!r} is not in this table")
            self.notify(text, severity="warning")
        else:
            self._show(self._shown, row, row % WINDOW)

    def action_page(self, pages: int) -> None:
        """Turn `pages` pages of the table."""
        if not self._views:
            return
        first = self._first + pages * WINDOW
        if 0 <= first < self._views[self._shown].length:
            self._show(self._shown, first)


def _leaves_of(tree: "Tree[str]") -> list:  # type: ignore[type-arg]
    return [node for branch in [tree.root, *tree.root.children] for node in branch.children]
