"""The trace language."""

from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim import events as ev
from nestscope.sim import operations as op
from nestscope.sim.trace import HEADER, HEADER_2, TraceError, format_operation, format_trace, parse
from nestscope.sim.verbs import VERB_OF, VERBS

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
huge = st.sampled_from([21, 30])
later_operation = st.one_of(
    st.builds(op.RptInvalidate, word, word, word, word, word, word),
    st.builds(ev.AddSlot, word, word, word, word, word),
    st.builds(ev.DeleteSlot, word),
    st.builds(ev.MoveSlot, word, word),
    st.builds(ev.SetSlotFlags, word, word),
    st.builds(ev.GetDirtyLog, word),
    st.builds(ev.ClearDirtyLog, word, word, word),
    st.builds(ev.Migrate, word, word),
    st.builds(ev.CollapseHuge, word, huge),
    st.builds(ev.SplitHuge, word, huge),
    st.builds(ev.Protect, word, word, st.booleans()),
    st.builds(ev.Age, word, word),
    st.builds(ev.TestAge, word),
    st.builds(ev.DestroyVm),
    st.builds(ev.SwitchToHpt),
)


newest_operation = st.one_of(
    st.builds(op.WriteWord, word, word),
    st.builds(op.RawHcall, word, st.lists(word, max_size=7).map(tuple)),
    st.builds(ev.Remap, word, word),
    st.builds(op.CreateGuest),
    st.builds(ev.AllocateHtab, word),
    st.builds(ev.SwitchToRadix),
    st.builds(ev.AdviseHuge, word, word, st.booleans()),
    st.builds(ev.Fork),
)


def test_every_operation_has_one_verb_and_every_field_a_word() -> None:
    assert set(VERB_OF) == set(get_args(op.Simple))
    assert len(VERB_OF) == len(VERBS)
    for operation, verb in VERB_OF.items():
        assert len(verb.arguments) == len(fields(operation)), verb.word


@given(st.lists(some_operation))
def test_what_is_written_is_read_back(operations: list[op.Operation]) -> None:
    assert list(parse(format_trace(operations))) == operations


@given(st.lists(some_operation | later_operation | newest_operation))
def test_what_came_later_is_read_back_too(operations: list[op.Operation]) -> None:
    assert list(parse(format_trace(operations))) == operations


@given(st.lists(some_operation))
def test_old_operations_make_a_trace_that_old_readers_know(operations: list[op.Operation]) -> None:
    assert format_trace(operations).startswith("nestscope-trace 1\n")


@given(later_operation)
def test_a_later_operation_needs_the_later_header(operation: op.Operation) -> None:
    text = format_trace([op.Drop(1), operation])
    assert text.startswith("nestscope-trace 2\n")
    with pytest.raises(TraceError, match=r"line 3, column 1: .* needs the header"):
        list(parse(text.replace("trace 2", "trace 1", 1)))


def test_the_newest_verbs_need_version_4_inside_together_too() -> None:
    for line in ("fork", "thp 0xc00000 0x200000 on", "together drop 1 | thp 0xc00000 0x200000 off"):
        (operation,) = parse(f"nestscope-trace 4\n{line}\n")
        assert format_operation(operation) == line
        assert format_trace([operation]).startswith("nestscope-trace 4\n")
        with pytest.raises(TraceError, match="needs the header 'nestscope-trace 4'"):
            list(parse(f"nestscope-trace 3\n{line}\n"))
    with pytest.raises(TraceError, match="neither `on` nor `off`"):
        list(parse("nestscope-trace 4\nthp 0xc00000 0x200000 ro\n"))


@given(newest_operation)
def test_a_newer_operation_needs_the_header_of_its_version(operation: op.Operation) -> None:
    version = 4 if isinstance(operation, ev.AdviseHuge | ev.Fork) else 3
    text = format_trace([ev.DeleteSlot(1), operation])
    assert text.startswith(f"nestscope-trace {version}\n")
    for older in range(1, version):
        with pytest.raises(TraceError, match="needs the header"):
            list(parse(text.replace(f"trace {version}", f"trace {older}", 1)))


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("word 0x600000 0xc000000000900187", op.WriteWord(0x600000, 0xC000000000900187)),
        ("hcall 0xf804 0x30000 0x31000", op.RawHcall(0xF804, (0x30000, 0x31000))),
        ("hcall 0xf800", op.RawHcall(0xF800, ())),
    ],
)
def test_each_newest_operation_has_its_stable_line(line: str, operation: op.Operation) -> None:
    assert list(parse(f"nestscope-trace 3\n{line}\n")) == [operation]
    assert format_operation(operation) == line


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        (
            "rpti lpid=3 target=1 type=0x3 pages=2 start=0x1000000 end=0x1020000",
            op.RptInvalidate(3, 1, 3, 2, 0x1000000, 0x1020000),
        ),
        ("slot 1 0x4000000 0x10000 0x200000000000 3", ev.AddSlot(1, 1 << 26, 1 << 16, 1 << 45, 3)),
        ("unslot 1", ev.DeleteSlot(1)),
        ("moveslot 1 0x6000000", ev.MoveSlot(1, 0x6000000)),
        ("slotflags 1 1", ev.SetSlotFlags(1, 1)),
        ("dirtylog 1", ev.GetDirtyLog(1)),
        ("cleardirty 1 64 128", ev.ClearDirtyLog(1, 64, 128)),
        ("migrate 0x900000 0x10000", ev.Migrate(0x900000, 0x10000)),
        ("collapse 0xa00000 2M", ev.CollapseHuge(0xA00000, 21)),
        ("split 0x40000000 1G", ev.SplitHuge(0x40000000, 30)),
        ("protect 0x900000 0x10000 ro", ev.Protect(0x900000, 0x10000, writable=False)),
        ("age 0x900000 0x10000", ev.Age(0x900000, 0x10000)),
        ("testage 0x900000", ev.TestAge(0x900000)),
        ("destroy", ev.DestroyVm()),
        ("hpt", ev.SwitchToHpt()),
    ],
)
def test_each_later_operation_has_its_stable_line(line: str, operation: op.Operation) -> None:
    assert list(parse(f"{HEADER_2}\n{line}\n")) == [operation]


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


@pytest.mark.parametrize("text", ["", "drop 3\n", "nestscope-trace 6\ndrop 3\n"])
def test_a_trace_without_its_header_is_refused(text: str) -> None:
    with pytest.raises(TraceError):
        list(parse(text))


@given(st.text())
def test_any_text_is_a_trace_or_a_trace_error(text: str) -> None:
    try:
        list(parse(f"{HEADER}\n{text}"))
    except TraceError as problem:
        assert problem.line >= 2
