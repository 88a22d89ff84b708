"""The VMM's pages: absent, zero, private, and when the notifier is called."""

from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.hostmm import ZERO_FRAME, HostMemory

PAGE = 1 << 16


def memory() -> tuple[HostMemory, list[tuple[int, int]]]:
    calls: list[tuple[int, int]] = []
    return HostMemory(16, lambda start, end: calls.append((start, end))), calls


def test_reading_an_absent_page_maps_the_zero_page_without_a_notifier_call() -> None:
    mm, calls = memory()
    assert mm.read(5 * PAGE + 8, 4) == bytes(4)
    assert mm.pages == {5: ZERO_FRAME}
    assert calls == []


def test_writing_an_absent_page_makes_it_private_without_a_notifier_call() -> None:
    mm, calls = memory()
    mm.write(5 * PAGE, b"x")
    assert mm.is_writable(5)
    assert calls == []


def test_writing_the_zero_page_notifies_for_just_that_page() -> None:
    mm, calls = memory()
    mm.read(5 * PAGE, 1)
    mm.write(5 * PAGE + 100, b"x")
    assert calls == [(5 * PAGE, 6 * PAGE)]
    assert mm.pages[5] != ZERO_FRAME


def test_the_notifier_is_called_before_the_page_changes() -> None:
    seen: list[int] = []
    mm = HostMemory(16, lambda start, _: seen.append(mm.pages[start >> 16]))
    mm.read(0, 1)
    mm.write(0, b"x")
    assert seen == [ZERO_FRAME]


def test_discard_notifies_even_when_nothing_is_there() -> None:
    mm, calls = memory()
    mm.discard(2 * PAGE, 3 * PAGE)
    assert calls == [(2 * PAGE, 5 * PAGE)]


def test_a_discarded_page_is_absent_and_comes_back_with_zeros_in_a_new_frame() -> None:
    mm, _ = memory()
    mm.write(0, b"abc")
    before = mm.pages[0]
    mm.discard(0, PAGE)
    assert 0 not in mm.pages
    mm.write(8, b"d")
    assert mm.read(0, 3) == bytes(3)
    assert mm.pages[0] != before


@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.binary(min_size=1, max_size=70000))))
def test_memory_holds_what_was_written(writes: list[tuple[int, bytes]]) -> None:
    mm, _ = memory()
    plain = bytearray(5 * PAGE)
    for hva, data in writes:
        mm.write(hva, data)
        plain[hva : hva + len(data)] = data
    assert mm.read(0, len(plain)) == plain
