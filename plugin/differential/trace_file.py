"""Trace files: operations that a run had, to be replayed."""

from collections.abc import Sequence
from pathlib import Path

from nestscope.decoders.errors import NestscopeError
from nestscope.sim.operations import Operation
from nestscope.sim.trace import format_trace, parse

_LARGEST = 64 << 20


def read_trace(path: Path) -> list[Operation]:
    """Read the operations of a trace file.

    Raises:
        NestscopeError: if it cannot be read or a line is wrong.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise NestscopeError(f"{path} is larger than any trace: is it the right file?")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NestscopeError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NestscopeError(f"{path} is not text: give a trace file") from error
    return list(parse(text))


def write_trace(path: Path, operations: Sequence[Operation], note: str) -> None:
    """Write a trace with `note` as a comment below its header.

    Raises:
        NestscopeError: if it cannot be written.
    """
    header, _, lines = format_trace(operations).partition("\n")
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{header}\n{comment}{lines}", encoding="utf-8")
    except OSError as error:
        raise NestscopeError(
            f"the trace cannot be written to {path} ({error.strerror}): choose a folder with --save"
        ) from error
