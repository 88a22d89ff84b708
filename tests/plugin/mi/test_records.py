from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygdbmi import gdbmiparser

from nestscope.plugin.mi.errors import MiSyntaxError
from nestscope.plugin.mi.records import Kind, MemoryBlock, MiRecord, memory_blocks, parse_record


def memory_line(token: int, blocks: list[tuple[int, bytes]]) -> bytes:
    parts = [
        f'{{begin="0x{begin:016x}",offset="0x0000000000000000",'
        f'end="0x{begin + len(data):016x}",contents="{data.hex()}"}}'
        for begin, data in blocks
    ]
    return f"{token}^done,memory=[{','.join(parts)}]".encode()


def by_pygdbmi(line: bytes) -> MiRecord:
    parsed = gdbmiparser.parse_response(line.decode())
    return MiRecord("result", parsed["message"], parsed["token"], parsed["payload"])


blocks = st.tuples(st.integers(0, (1 << 64) - 301), st.binary(min_size=1, max_size=300))


class TestMemoryAnswers:
    @given(st.integers(1, 10**9), blocks)
    def test_the_fast_path_agrees_with_pygdbmi(self, token: int, block: tuple[int, bytes]) -> None:
        line = memory_line(token, [block])
        fast, slow = parse_record(line), by_pygdbmi(line)
        assert fast.memory is not None, "the fast path was not taken"
        assert (fast.kind, fast.message, fast.token) == (slow.kind, slow.message, slow.token)
        assert memory_blocks(fast) == memory_blocks(slow) == (MemoryBlock(*block),)

    @given(st.lists(blocks, min_size=2, max_size=4))
    def test_several_blocks_are_left_to_pygdbmi(self, several: list[tuple[int, bytes]]) -> None:
        record = parse_record(memory_line(7, several))
        assert record.memory is None
        assert memory_blocks(record) == tuple(MemoryBlock(*block) for block in several)

    @pytest.mark.parametrize("contents", [b"zz", b"abc", b"00 11 2"])
    def test_contents_that_are_not_hex_are_refused(self, contents: bytes) -> None:
        line = memory_line(1, [(0x10, b"\1")]).replace(b'"01"', b'"' + contents + b'"')
        with pytest.raises(MiSyntaxError):
            memory_blocks(parse_record(line))

    def test_another_answer_is_no_memory(self) -> None:
        with pytest.raises(MiSyntaxError):
            memory_blocks(parse_record(b"1^done"))


class TestOtherRecords:
    def test_an_error_keeps_gdbs_message(self) -> None:
        record = parse_record(b'12^error,msg="No symbol \\"x\\" in current context."')
        assert (record.message, record.token) == ("error", 12)
        assert record.payload["msg"] == 'No symbol "x" in current context.'

    def test_a_stop_is_a_notification_with_its_frame(self) -> None:
        record = parse_record(b'*stopped,reason="breakpoint-hit",bkptno="1",frame={addr="0x10"}')
        assert (record.kind, record.message) == ("notify", "stopped")
        assert record.payload["frame"]["addr"] == "0x10"

    @pytest.mark.parametrize(("mark", "kind"), [("~", "console"), ("&", "log"), ("@", "target")])
    def test_streams_are_unescaped(self, mark: str, kind: str) -> None:
        record = parse_record(f'{mark}"a\\n\\"b\\""'.encode())
        assert (record.kind, record.text) == (kind, 'a\n"b"')


class TestMalformedRecords:
    # pygdbmi would search for the end of the open list for ever.
    @pytest.mark.timeout(5)
    @pytest.mark.parametrize(
        "line",
        [
            b"1^done,a=[",
            b'1^done,a=["x"',
            b"1^done,a={b=[}",
            b'1^done,a="x',
            b'*stopped,a=["b"',
            b"1^done,a=" + b"[" * 100000 + b"]" * 100000,
        ],
    )
    def test_they_are_refused(self, line: bytes) -> None:
        with pytest.raises(MiSyntaxError):
            parse_record(line)

    @pytest.mark.timeout(60)
    @given(st.binary(max_size=60), st.sampled_from([b"", b"1^done,", b"*stopped,", b"~"]))
    def test_any_line_gives_a_record_or_the_error(self, junk: bytes, start: bytes) -> None:
        try:
            record = parse_record(start + junk.replace(b"\n", b""))
        except MiSyntaxError:
            return
        assert record.kind in get_args(Kind)
