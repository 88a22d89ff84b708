"""Why blocks are not covered: a declared list for each build of the module, and its check.

`reasons/causes.toml` has the causes: a text, and whether the block can never run.
Beside it lies a file for each build: `release`, `build_id` of the module, and a table
for each function, of blocks (distance in bytes from the function's symbol) to the name
of a cause. Tables below a `CONDITIONS` apply only to measurements of that kind. `digests` has
`digest_of` each function, by which another build with the same code is known.
"""

import hashlib
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.coverage.blocks import FunctionBlocks

_FOLDER = Path(__file__).parent / "reasons"
_CAUSES = "causes.toml"
_DIGESTS = "digests"

CONDITIONS = ("sets_rc", "no_failures")
"""The machine sets R and C itself; no allocation was made to fail."""


class ReasonsError(NestscopeError):
    """The list of reasons is not well-formed."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a block did not run.

    `never`: no input can make it run. `chance`: it may run or not, so that the reason
    is not wrong when it did.
    """

    text: str
    never: bool
    chance: bool = False


@dataclass(frozen=True)
class Reasons:
    """The reasons of one build, by the function's name and the block's distance from it."""

    release: str
    blocks: Mapping[tuple[str, int], Reason] = field(default_factory=dict)

    def of(self, function: str, block: int) -> Reason | None:
        """Return the reason of a block, or None."""
        return self.blocks.get((function, block))


def load_reasons(
    build_id: str,
    conditions: Collection[str] = (),
    folder: Path = _FOLDER,
    functions: Sequence[FunctionBlocks] = (),
) -> Reasons | None:
    """Return the reasons for the module of this build, None if there are none.

    `conditions` are those of `CONDITIONS` under which it was measured. A build that has no list
    of its own has those of each of its `functions` that is, instruction by instruction, the
    one of a build that has: another build of the same source mostly is.

    Raises:
        ReasonsError: naming the file and what is wrong in it.
    """
    causes = _read(folder / _CAUSES)
    for path in sorted(folder.glob("*.toml")):
        if path.name == _CAUSES:
            continue
        table = _read(path)
        if table.get("build_id") == build_id:
            tables = [table, *(table.get(name, {}) for name in CONDITIONS if name in conditions)]
            blocks = {at: why for some in tables for at, why in _blocks(some, causes, path)}
            return Reasons(str(table.get("release")), blocks)
    return _reasons_of_equals(functions, conditions, folder)


def digest_of(some: FunctionBlocks) -> str:
    """Return what tells the instructions of a function from others, wherever they lie."""
    text = "\n".join(each.text for block in some.blocks for each in block.instructions)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reasons_of_equals(
    functions: Sequence[FunctionBlocks], conditions: Collection[str], folder: Path
) -> Reasons | None:
    """Return the reasons of functions that a build with a list has, too."""
    wanted = {some.function.name: digest_of(some) for some in functions}
    blocks: dict[tuple[str, int], Reason] = {}
    for path in sorted(folder.glob("*.toml")):
        digests = _read(path).get(_DIGESTS, {}) if path.name != _CAUSES else {}
        equal = {name for name, digest in wanted.items() if digests.get(name) == digest}
        found = (
            load_reasons(str(_read(path).get("build_id")), conditions, folder) if equal else None
        )
        if found is not None:
            blocks |= {at: why for at, why in found.blocks.items() if at[0] in equal}
    return Reasons("of equal functions in other builds", blocks) if blocks else None


def wrong_reasons(
    reasons: Reasons, functions: Sequence[FunctionBlocks], counts: Mapping[int, int]
) -> list[str]:
    """Return what is wrong with a list of reasons: for no block, or for one that ran.

    `counts` says how often each block ran, by its offset. Functions that are not
    among `functions` were not measured and are left out.
    """
    measured = {some.function.name: some for some in functions}
    wrong = []
    for (name, at), reason in sorted(reasons.blocks.items(), key=lambda item: item[0]):
        some = measured.get(name)
        if some is None:
            continue
        starts = {some.relative(block): block.start for block in some.blocks}
        if at not in starts:
            wrong.append(f"there is a reason for {name}+{at:#x}, where no block begins")
        elif counts[starts[at]] and not reason.chance:
            wrong.append(f"there is a reason for {name}+{at:#x}, but it ran")
    return wrong


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReasonsError(f"{path} cannot be used: {error}") from error


def _blocks(
    table: Mapping[str, Any], causes: Mapping[str, Any], path: Path
) -> Iterator[tuple[tuple[str, int], Reason]]:
    for function, blocks in table.items():
        if function in (*CONDITIONS, _DIGESTS) or not isinstance(blocks, dict):
            continue
        for block, name in blocks.items():
            cause = causes.get(name)
            if not isinstance(cause, dict):
                raise ReasonsError(f"{path}: {function}+{block} has the unknown cause {name!r}")
            try:
                reason = Reason(cause["text"], cause["never"], cause.get("chance", False))
                yield (function, int(block, 16)), reason
            except ValueError:
                raise ReasonsError(f"{path}: '{block}' of {function} is no distance") from None
            except KeyError as error:
                raise ReasonsError(f"{path.parent / _CAUSES}: {name} has no {error}") from None
