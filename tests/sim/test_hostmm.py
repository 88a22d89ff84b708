"""The VMM's pages: absent, zero, private, and when the notifier is called."""

from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.steps import Steps, drain

PAGE = 1 << 16


class Listener:
    """Notes the ranges that it is told about, and what a page was at that time."""

    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory
        self.calls: list[tuple[int, int]] = []
        self.ends: list[tuple[int, int]] = []
        self.seen: list[int] = []

    def start(self, start: int, end: int) -> Steps[None]:
        yield "start"
        self.calls.append((start, end))
        self.seen.append(self.memory.find(start >> 16)[0])

    def end(self, start: int, end: int) -> Steps[None]:
        yield "end"
        self.ends.append((start, end))
        self.seen.append(self.memory.find(start >> 16)[0])


def memory() -> tuple[HostMemory, Listener]:
    memory = HostMemory(16)
    memory.notifier = listener = Listener(memory)
    return memory, listener


def test_reading_an_absent_page_maps_the_zero_page_without_a_notifier_call() -> None:
    mm, told = memory()
    assert mm.read(5 * PAGE + 8, 4) == bytes(4)
    assert mm.pages == {5: ZERO_FRAME}
    assert told.calls == []


def test_writing_an_absent_page_makes_it_private_without_a_notifier_call() -> None:
    mm, told = memory()
    drain(mm.write(5 * PAGE, b"x"))
    assert mm.private_frame(5)
    assert told.calls == []


def test_writing_the_zero_page_notifies_for_just_that_page() -> None:
    mm, told = memory()
    mm.read(5 * PAGE, 1)
    drain(mm.write(5 * PAGE + 100, b"x"))
    assert told.calls == [(5 * PAGE, 6 * PAGE)]
    assert mm.pages[5] != ZERO_FRAME


def test_the_notifier_is_told_before_the_page_changes_and_after() -> None:
    mm, told = memory()
    mm.read(0, 1)
    drain(mm.write(0, b"x"))
    assert told.seen == [ZERO_FRAME, mm.pages[0]]
    assert told.ends == told.calls


def test_discard_notifies_even_when_nothing_is_there() -> None:
    mm, told = memory()
    drain(mm.discard(2 * PAGE, 3 * PAGE))
    assert told.calls == [(2 * PAGE, 5 * PAGE)]


def test_a_discarded_page_is_absent_and_comes_back_with_zeros_in_a_new_frame() -> None:
    mm, _ = memory()
    drain(mm.write(0, b"abc"))
    before = mm.pages[0]
    drain(mm.discard(0, PAGE))
    assert 0 not in mm.pages
    drain(mm.write(8, b"d"))
    assert mm.read(0, 3) == bytes(3)
    assert mm.pages[0] != before


@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.binary(min_size=1, max_size=70000))))
def test_memory_holds_what_was_written(writes: list[tuple[int, bytes]]) -> None:
    mm, _ = memory()
    plain = bytearray(5 * PAGE)
    for hva, data in writes:
        drain(mm.write(hva, data))
        plain[hva : hva + len(data)] = data
    assert mm.read(0, len(plain)) == plain
