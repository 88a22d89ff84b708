"""The layer inside GDB, as far as it runs without GDB: messages, arguments, help, syntax."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.gdb import inside
from nestscope.plugin.gdb.inside import spec
from nestscope.plugin.gdb.inside.wire import HEADER, MAX_JSON, Unpacker, WireError, pack
from nestscope.plugin.gdb.worker.verbs import VERBS

FOLDER = Path(inside.__file__).parent
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class TestWire:
    @given(
        st.lists(st.tuples(st.dictionaries(st.text(), _JSON, max_size=4), st.binary())),
        st.integers(1, 9),
    )
    def test_messages_come_back_however_the_pipe_cuts_them(
        self, messages: list[tuple[dict[str, object], bytes]], piece: int
    ) -> None:
        stream = b"".join(pack(message, raw) for message, raw in messages)
        unpacker = Unpacker()
        found = []
        for at in range(0, len(stream), piece):
            unpacker.feed(stream[at : at + piece])
            while (whole := unpacker.next()) is not None:
                found.append(whole)
        assert found == messages

    @pytest.mark.parametrize(
        "stream",
        [
            HEADER.pack(MAX_JSON + 1, 0),
            HEADER.pack(0, (1 << 32) - 1),
            HEADER.pack(2, 0) + b"{]",
            HEADER.pack(2, 0) + b"[]",
            HEADER.pack(2, 0) + b"\xff\xff",
        ],
    )
    def test_what_is_no_message_is_refused(self, stream: bytes) -> None:
        unpacker = Unpacker()
        unpacker.feed(stream)
        with pytest.raises(WireError):
            unpacker.next()


class TestArguments:
    def test_options_may_stand_anywhere_and_with_an_equals_sign(self) -> None:
        verb = spec.find("walk")
        expected = {"address": "0x10", "lpid": "2", "json": True}
        assert spec.parse(verb, ["0x10", "--lpid", "2", "--json"]) == expected
        assert spec.parse(verb, ["--json", "--lpid=2", "0x10"]) == expected

    @pytest.mark.parametrize(
        ("name", "words", "sentence"),
        [
            ("chain", [], "it takes PLACE, and 0 came"),
            ("vms", ["x"], "it takes no argument, and 1 came"),
            ("chain", ["1", "--gpa=yes"], "there is no option --gpa=yes"),
            ("walk", ["1", "--lpid"], "--lpid needs a value"),
            ("break", ["never", "1", "2"], "never is not one of insert, remove, both"),
        ],
    )
    def test_mistakes_are_told_with_the_usage(
        self, name: str, words: list[str], sentence: str
    ) -> None:
        with pytest.raises(spec.UsageError, match=re.escape(sentence)):
            spec.parse(spec.find(name), words)

    @given(st.sampled_from(spec.VERBS), st.lists(st.text(max_size=8), max_size=6))
    def test_any_words_give_arguments_or_a_usage_error(
        self, verb: spec.Verb, words: list[str]
    ) -> None:
        try:
            found = spec.parse(verb, words)
        except spec.UsageError:
            return
        names = {option.name for option in verb.options} | {name.lower() for name in verb.places}
        assert set(found) <= names

    def test_completion_offers_what_is_not_there_yet(self) -> None:
        verb = spec.find("chain")
        assert spec.completions(verb, ["1"], "--") == ["--gpa", "--vm", "--json"]
        assert spec.completions(verb, ["1", "--gpa"], "--") == ["--vm", "--json"]
        assert spec.completions(spec.find("decode"), [], "pt") == ["pte", "ptcr"]
        assert spec.completions(spec.find("decode"), ["pte"], "") == []


def test_every_command_has_someone_to_answer_it() -> None:
    assert {verb.name for verb in spec.VERBS} - {"break"} <= set(VERBS)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_syntax_is_that_of_python_3_6(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 6))
    for node in ast.walk(tree):
        # `list[int]` and `X | None` are evaluated, and fail before 3.9 and 3.10.
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            text = ast.unparse(node.annotation)
            assert not re.search(r"\b(list|dict|tuple|set|type)\[| \| ", text), (path.name, text)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] in {"typing", "gdb"}, node.module


def test_only_the_standard_library_and_gdb_are_imported() -> None:
    imported = {
        alias.name.split(".")[0]
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    known = {"errno", "gdb", "json", "os", "re", "select", "struct", "subprocess", "sys", "time"}
    assert imported <= known
