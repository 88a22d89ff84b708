"""GDB/MI output lines to records (GDB manual, "GDB/MI Output Syntax").

pygdbmi parses every record except one: the answer to `-data-read-memory-bytes`.
Its contents are one hex string of up to megabytes, which pygdbmi walks character
by character (68 ms a MiB); a slice and `bytes.fromhex` take 1 % of that. The tests
prove that both ways give the same blocks.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pygdbmi import gdbmiparser

from nestscope.plugin.mi.errors import MiSyntaxError

_PROMPT = b"(gdb)"
MAX_DEPTH = 64
"""Deepest nesting of tuples and lists that is handed to pygdbmi, which recurses."""

Kind = Literal["result", "notify", "console", "target", "log", "output", "prompt"]


class MemoryBlock(NamedTuple):
    """Bytes that GDB could read, from `begin` (an address) on."""

    begin: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MiRecord:
    """One line of GDB's output.

    Attributes:
        kind: "result" (`^`), "notify" (`*` and `=`), "console" (`~`), "target"
            (`@`), "log" (`&`), "prompt" (`(gdb)`) or "output" (none of these).
        message: class of a result or notification ("done", "stopped", ...); else "".
        token: number that the command carried, None when it had none.
        payload: named results of a result or notification.
        text: unescaped text of the four stream kinds.
        memory: blocks of a memory answer that took the fast path, None otherwise.
    """

    kind: Kind
    message: str = ""
    token: int | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    memory: tuple[MemoryBlock, ...] | None = None


_MEMORY = re.compile(
    rb'(\d+)\^done,memory=\[\{begin="0x([0-9a-f]{1,16})",offset="0x0*",'
    rb'end="0x[0-9a-f]{1,16}",contents="'
)
_MEMORY_END = b'"}]'
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_record(line: bytes) -> MiRecord:
    """Return the record on `line` (without its line end).

    Raises:
        MiSyntaxError: if it begins like a record but is malformed.
    """
    if line.rstrip() == _PROMPT:
        return MiRecord("prompt")
    return _parse_memory(line) or _parse_any(line)


def memory_blocks(record: MiRecord) -> tuple[MemoryBlock, ...]:
    """Return the blocks of an answer to `-data-read-memory-bytes`, by either way of parsing.

    Raises:
        MiSyntaxError: if the record is not such an answer.
    """
    if record.memory is not None:
        return record.memory
    try:
        return tuple(
            MemoryBlock(int(block["begin"], 16), bytes.fromhex(block["contents"]))
            for block in record.payload["memory"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MiSyntaxError(f"GDB's memory answer is malformed: {error!r}") from error


def _parse_memory(line: bytes) -> MiRecord | None:
    """Fast path: exactly one block, plain hex. Anything else is None."""
    head = _MEMORY.match(line)
    if head is None or not line.endswith(_MEMORY_END):
        return None
    try:
        data = bytes.fromhex(line[head.end() : -len(_MEMORY_END)].decode("ascii"))
    except ValueError:  # several blocks, or not hex: the general parser decides
        return None
    block = MemoryBlock(int(head[2], 16), data)
    return MiRecord("result", "done", int(head[1]), memory=(block,))


def _parse_any(line: bytes) -> MiRecord:
    text = line.decode("utf-8", "replace")
    _check_nesting(text)
    try:
        parsed = gdbmiparser.parse_response(text)
    except Exception as error:
        raise MiSyntaxError(f"GDB wrote a malformed record: {text[:120]!r}") from error
    kind: Kind = "prompt" if parsed["type"] == "done" else parsed["type"]
    if kind in ("result", "notify"):
        return MiRecord(kind, parsed["message"], parsed["token"], parsed["payload"] or {})
    return MiRecord(kind, text=parsed["payload"] or "")


def _check_nesting(text: str) -> None:
    """Refuse unbalanced brackets: pygdbmi never leaves a list that does not close."""
    if not re.match(r"\d*[\^*=]", text):
        return
    depth = 0
    bare = _QUOTED.sub("", text)
    for char in bare:
        if char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
        if not 0 <= depth <= MAX_DEPTH:
            break
    if depth or '"' in bare:
        raise MiSyntaxError(f"GDB wrote a malformed record: {text[:120]!r}")
