"""The browser, driven as a user drives it; what it shows is kept as text beside this file."""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from threading import Event, Lock, Semaphore
from types import SimpleNamespace

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

import nestscope
from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.state import Chains, KernelInfo, Leaves, Memslot, Source, State, Vm
from nestscope.plugin.present.browse import subject as subject_module
from nestscope.plugin.present.browse.app import WINDOW, Browser, Snapshot
from nestscope.plugin.present.browse.place import Place, parse_place
from nestscope.plugin.present.browse.subject import OpenedSubject
from nestscope.plugin.present.browse.views import views

SNAPSHOTS = Path(__file__).with_name("browse_snapshots")
SAMPLE = "sample:6.12-64k"

Script = Callable[[Pilot[None], Browser], Awaitable[None]]


def screen_text(browser: Browser) -> str:
    """Return what is on the screen, without styles."""
    svg = browser.export_screenshot()
    rows: dict[float, list[tuple[float, str]]] = {}
    for x, y, text in re.findall(r'<text [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        rows.setdefault(float(y), []).append((float(x), unescape(text).replace("\xa0", " ")))
    lines = []
    for y in sorted(rows):
        line = ""
        for x, text in sorted(rows[y]):
            line = line.ljust(round(x / 12.2)) + text
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def drive(browser: Browser, script: Script) -> str:
    """Run the browser, let the script press keys, and return the screen at its end."""

    async def run() -> str:
        async with browser.run_test(size=(110, 36), notifications=True) as pilot:
            await settled(pilot, browser)
            await script(pilot, browser)
            await settled(pilot, browser)
            return screen_text(browser)

    return asyncio.run(asyncio.wait_for(run(), 60))


async def settled(pilot: Pilot[None], browser: Browser) -> None:
    await browser.workers.wait_for_complete()
    await pilot.pause()


async def type_line(pilot: Pilot[None], key: str, text: str) -> None:
    await pilot.press(key, *text, "enter")
    await pilot.pause()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("first", []),
        ("walk_of_a_row", ["enter"]),
        ("jump_to_a_nested_address", ["g", *"2:0x50010000", "enter"]),
    ],
)
def test_the_screen_is_as_it_was_kept(name: str, keys: list[str]) -> None:
    async def script(pilot: Pilot[None], _: Browser) -> None:
        if keys:
            await pilot.press(*keys)

    shown = drive(Browser(OpenedSubject(SAMPLE)), script)
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("NESTSCOPE_KEEP_SNAPSHOTS"):  # to be looked at before it is committed
        path.write_text(shown)
    assert shown == path.read_text()


def test_a_search_goes_to_the_next_row_that_holds_the_text() -> None:
    async def script(pilot: Pilot[None], browser: Browser) -> None:
        await type_line(pilot, "slash", "0x50060000")
        table = browser.query_one("#table", DataTable)
        assert "0x50060000" in str(table.get_row_at(table.cursor_row))

    drive(Browser(OpenedSubject(SAMPLE)), script)


def test_a_place_that_is_none_is_said_and_nothing_moves() -> None:
    async def script(pilot: Pilot[None], browser: Browser) -> None:
        before = browser.query_one("#table", DataTable).cursor_row
        await type_line(pilot, "g", "what")
        assert browser.query_one("#table", DataTable).cursor_row == before

    assert "no place" in drive(Browser(OpenedSubject(SAMPLE)), script)


class Changing:
    """A subject whose memory changes between two readings; the second one may fail."""

    name = "changing"

    def __init__(self, *readings: State | NestscopeError) -> None:
        self._readings = list(readings)

    def read(self) -> Snapshot:
        reading = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        if isinstance(reading, NestscopeError):
            raise reading
        return Snapshot(reading, [])

    def walk(self, *_: object) -> object:
        raise NestscopeError("there is nothing to walk")


def state_with(gfns: range) -> State:
    chains = Chains.build((gfn, 1, [(1, gfn << 16)]) for gfn in gfns)
    leaves = Leaves.build((gfn << 16, 16, 0xC000000000000187) for gfn in gfns)
    memslot = Memslot(0, 0, 1 << 20, 0, 0, 0, chains)
    vm = Vm(0xC000000000001000, 1, True, False, 0, (memslot,), leaves)
    return State(Source("raw", "x"), KernelInfo("6.12", 16), (vm,))


def test_a_refresh_shows_what_changed_and_keeps_the_place() -> None:
    subject = Changing(state_with(range(10)), state_with(range(20)))

    async def script(pilot: Pilot[None], browser: Browser) -> None:
        await pilot.press(*["down"] * 4)
        await pilot.press("r")
        await settled(pilot, browser)
        table = browser.query_one("#table", DataTable)
        assert table.row_count == 20
        assert table.cursor_row == 4

    assert "(20)" in drive(Browser(subject), script)  # type: ignore[arg-type]


def test_a_source_that_goes_away_leaves_the_last_state_on_the_screen() -> None:
    subject = Changing(state_with(range(10)), NestscopeError("the machine is gone"))

    async def script(pilot: Pilot[None], browser: Browser) -> None:
        await pilot.press("r")

    shown = drive(Browser(subject), script)  # type: ignore[arg-type]
    assert "the machine is gone" in shown
    assert "0x90000" in shown


def test_refreshes_that_fail_alike_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(Changing):
        reads = 0

        def read(self) -> Snapshot:
            self.reads += 1
            return super().read()

    subject = Dead(NestscopeError("the machine is gone"))
    browser = Browser(subject, 0.01, Snapshot(state_with(range(3)), []))  # type: ignore[arg-type]
    said: list[str] = []
    # On a busy machine a message may have left the screen before it is looked at.
    monkeypatch.setattr(browser, "notify", lambda text, **_: said.append(text))

    async def script(pilot: Pilot[None], _: Browser) -> None:
        while subject.reads < 3:  # bounded by the time of the whole run
            await pilot.pause(0.01)

    drive(browser, script)
    assert said == ["the machine is gone"]


def test_a_slow_reading_is_not_begun_twice() -> None:
    begun, may_end = Semaphore(0), Event()

    class Slow(Changing):
        def read(self) -> Snapshot:
            begun.release()
            assert may_end.wait(30)
            return super().read()

    first = Snapshot(state_with(range(3)), [])

    async def script(pilot: Pilot[None], browser: Browser) -> None:
        await pilot.press("r", "r", "r")
        assert begun.acquire(timeout=30)
        assert not begun.acquire(blocking=False)
        may_end.set()

    assert "(7)" in drive(Browser(Slow(state_with(range(7))), 0, first), script)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["g", "slash", "n", "left_square_bracket", "right_square_bracket"])
def test_no_key_does_harm_before_anything_was_read(key: str) -> None:
    async def script(pilot: Pilot[None], browser: Browser) -> None:
        await pilot.press(key, "enter")

    never = Changing(NestscopeError("not there yet"))
    assert "not there yet" in drive(Browser(never), script)  # type: ignore[arg-type]


def test_brackets_from_the_memory_are_no_markup() -> None:
    findings = [("rule", "error", "[/x] [bold]loud", "vms[0]")]
    first = Snapshot(state_with(range(3)), findings)
    subject = Changing(NestscopeError("[/no] such thing"))

    async def script(pilot: Pilot[None], browser: Browser) -> None:
        browser._show("findings")
        await pilot.press("r")

    shown = drive(Browser(subject, 0, first), script)  # type: ignore[arg-type]
    assert "[/x] [bold]loud" in shown
    assert "[/no] such thing" in shown


def test_a_source_is_opened_by_one_reader_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Lock()

    @contextmanager
    def opened(name: str, **_: object) -> Iterator[object]:
        assert inside.acquire(blocking=False), "a gdbstub takes one client"
        time.sleep(0.02)
        yield SimpleNamespace(walk=lambda *_, **__: name)
        inside.release()

    monkeypatch.setattr(subject_module, "open_source", opened)
    subject = OpenedSubject("gdb:somewhere")
    with ThreadPoolExecutor(4) as readers:
        walks = [readers.submit(subject.walk, 0, None, 0) for _ in range(8)]
    assert [walk.result() for walk in walks] == ["gdb:somewhere"] * 8


def test_a_table_of_many_rows_is_shown_a_page_at_a_time() -> None:
    async def script(pilot: Pilot[None], browser: Browser) -> None:
        table = browser.query_one("#table", DataTable)
        assert table.row_count == WINDOW
        await pilot.press("right_square_bracket")
        assert table.get_row_at(0)[0] == hex(WINDOW)
        await type_line(pilot, "g", hex(1200 << 16))
        assert table.get_row_at(table.cursor_row)[0] == hex(1200)

    drive(Browser(Changing(state_with(range(1500)))), script)  # type: ignore[arg-type]


def test_views_find_the_row_of_an_address_and_none_where_nothing_is() -> None:
    with nestscope.open(SAMPLE) as source:
        state = source.state()
    by_key = {view.key: view for view in views(state, [])}
    shadow = by_key["vm0.shadow2"]
    row = shadow.find(0x50010FFF)
    assert row is not None
    assert shadow.rows(row, 1)[0][0] == "0x50010000"
    assert shadow.walks(row) == 0x50010000
    assert shadow.find(0x40000000) is None
    assert by_key["vm0.rmap0"].find(0x910008) == 1
    assert by_key["vm0.rmap0"].find(0x700000) is None


def test_a_place_is_an_address_or_one_of_a_nested_guest() -> None:
    assert parse_place("0x910000") == Place(None, 0x910000)
    assert parse_place(" 2:0x1000000 ") == Place(2, 0x1000000)
    for wrong in ("", "x", "2:", "-1", "0x10000000000000000", "-1:0"):
        with pytest.raises(NestscopeError, match="no place"):
            parse_place(wrong)
