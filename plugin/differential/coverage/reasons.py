"""Why blocks are not covered: a declared list for each build of the module, and its check.

`reasons/causes.toml` has the texts. Beside it lies a file for each build: `release`,
`build_id` of the module, and a table for each function, of blocks (distance in bytes
from the function's symbol) to the name of a cause.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.coverage.blocks import FunctionBlocks

_FOLDER = Path(__file__).parent / "reasons"
_CAUSES = "causes.toml"


class ReasonsError(NestscopeError):
    """The list of reasons is not well-formed."""


@dataclass(frozen=True)
class Reasons:
    """The reasons of one build: function's name and block's distance from it to a text."""

    release: str
    texts: Mapping[tuple[str, int], str] = field(default_factory=dict)

    def of(self, function: str, block: int) -> str | None:
        """Return the reason of a block, or None."""
        return self.texts.get((function, block))


def load_reasons(build_id: str, folder: Path = _FOLDER) -> Reasons | None:
    """Return the reasons for the module of this build, None if there is no list.

    Raises:
        ReasonsError: naming the file and what is wrong in it.
    """
    causes = _read(folder / _CAUSES)
    for path in sorted(folder.glob("*.toml")):
        if path.name == _CAUSES:
            continue
        table = _read(path)
        if table.get("build_id") == build_id:
            return Reasons(str(table.get("release")), dict(_texts(table, causes, path)))
    return None


def wrong_reasons(
    reasons: Reasons, functions: Sequence[FunctionBlocks], counts: Mapping[int, int]
) -> list[str]:
    """Return what is wrong with a list of reasons: for no block, or for one that ran.

    `counts` says how often each block ran, by its offset. Functions that are not
    among `functions` were not measured and are left out.
    """
    measured = {some.function.name: some for some in functions}
    wrong = []
    for name, at in sorted(reasons.texts):
        some = measured.get(name)
        if some is None:
            continue
        starts = {some.relative(block): block.start for block in some.blocks}
        if at not in starts:
            wrong.append(f"there is a reason for {name}+{at:#x}, where no block begins")
        elif counts[starts[at]]:
            wrong.append(f"there is a reason for {name}+{at:#x}, but it ran")
    return wrong


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReasonsError(f"{path} cannot be used: {error}") from error


def _texts(
    table: Mapping[str, Any], causes: Mapping[str, Any], path: Path
) -> Iterator[tuple[tuple[str, int], str]]:
    for function, blocks in table.items():
        if not isinstance(blocks, dict):
            continue
        for block, cause in blocks.items():
            text = causes.get(cause)
            if not isinstance(text, str):
                raise ReasonsError(f"{path}: {function}+{block} has the unknown cause {cause!r}")
            try:
                yield (function, int(block, 16)), text
            except ValueError:
                raise ReasonsError(f"{path}: '{block}' of {function} is no distance") from None
