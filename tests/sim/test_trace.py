"""The trace language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim import operations as op
from nestscope.sim.trace import HEADER, TraceError, format_operation, format_trace, parse

word = st.integers(0, 2**64 - 1)
lpid = st.integers(0, 2**32 - 1)
some_operation = st.one_of(
    st.builds(
        op.Map,
        lpid,
        word,
        word,
        st.sampled_from([12, 16, 21, 30]),
        st.sets(st.sampled_from([1, 2, 4, 0x80, 0x100])).map(sum),
    ),
    st.builds(op.Unmap, lpid, word),
    st.builds(op.Load, lpid, word),
    st.builds(op.Store, lpid, word, word),
    st.builds(op.Fetch, lpid, word),
    st.builds(op.WriteData, word, word),
    st.builds(op.WriteCode, word),
    st.builds(op.SetPartitionTable, word),
    st.builds(op.Tlbie, *[st.integers(0, 3)] * 4, lpid, st.integers(0, 7), word),
    st.builds(op.DiscardMemory, word, word),
    st.builds(op.Drop, lpid),
)


@given(st.lists(some_operation))
def test_what_is_written_is_read_back(operations: list[op.Operation]) -> None:
    assert list(parse(format_trace(operations))) == operations


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("map 3 0x1000000 0x900000 64K rwxRC", op.Map(3, 0x1000000, 0x900000, 16, 0x187)),
        ("map 3 0x0 0x0 2M -", op.Map(3, 0, 0, 21, 0)),
        ("unmap 3 0x1000000", op.Unmap(3, 0x1000000)),
        ("load 3 0x1000000", op.Load(3, 0x1000000)),
        ("store 3 0x1000000 0x1234", op.Store(3, 0x1000000, 0x1234)),
        ("fetch 3 0x1000000", op.Fetch(3, 0x1000000)),
        ("write 0x900000 0x1234", op.WriteData(0x900000, 0x1234)),
        ("code 0x900000", op.WriteCode(0x900000)),
        ("ptcr 0x40004", op.SetPartitionTable(0x40004)),
        (
            "tlbie ric=0 prs=0 r=1 is=0 lpid=3 ap=5 epn=0x1000",
            op.Tlbie(0, 0, 1, 0, 3, 5, 0x1000),
        ),
        ("discard 0x900000 0x10000", op.DiscardMemory(0x900000, 0x10000)),
        ("drop 3", op.Drop(3)),
    ],
)
def test_each_operation_has_its_stable_line(line: str, operation: op.Operation) -> None:
    assert list(parse(f"{HEADER}\n{line}\n")) == [operation]
    assert format_operation(operation) == line


def test_comments_and_empty_lines_say_nothing() -> None:
    text = f"{HEADER}\n\n# a comment\n  drop 3  # why not\n"
    assert list(parse(text)) == [op.Drop(3)]


@pytest.mark.parametrize(
    ("line", "column", "why"),
    [
        ("jump 3", 1, "jump"),
        ("load 3", 7, "n_gpa is missing"),
        ("load three 0", 6, "three"),
        ("load 3 0 0", 10, "too much"),
        ("load 3 0x1_0", 8, "0x1_0"),
        ("load 3 0x10000000000000000", 8, "not a number"),
        ("map 3 0 0 8K rwx", 11, "8K"),
        ("map 3 0 0 4K rwrx", 14, "rwrx"),
        ("tlbie ric=0 prs=0 r=1 is=0 lpid=3 ap=5", 39, "epn"),
        ("tlbie ric=0 ric=1", 13, "ric=1"),
        ("tlbie ric=x", 7, "x"),
    ],
)
def test_an_error_names_line_and_column(line: str, column: int, why: str) -> None:
    with pytest.raises(TraceError) as caught:
        list(parse(f"{HEADER}\ndrop 1\n{line}\n"))
    assert (caught.value.line, caught.value.column) == (3, column)
    assert why in str(caught.value)
    assert f"line 3, column {column}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "drop 3\n", "nestscope-trace 2\ndrop 3\n"])
def test_a_trace_without_its_header_is_refused(text: str) -> None:
    with pytest.raises(TraceError):
        list(parse(text))


@given(st.text())
def test_any_text_is_a_trace_or_a_trace_error(text: str) -> None:
    try:
        list(parse(f"{HEADER}\n{text}"))
    except TraceError as problem:
        assert problem.line >= 2
