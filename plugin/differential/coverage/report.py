"""The coverage of some functions as a document: `nestscope.coverage/1`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nestscope.plugin.differential.coverage.blocks import Block, FunctionBlocks
from nestscope.plugin.differential.coverage.coverage import INLINED
from nestscope.plugin.differential.coverage.reasons import Reason, Reasons, wrong_reasons

SCHEMA = "nestscope.coverage/1"


@dataclass(frozen=True, slots=True)
class BlockReport:
    """A block: its distance in bytes from the function, how often it ran, why it did not."""

    at: int
    block: Block
    count: int
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """A function, the functions of the source that the compiler put into it, its blocks."""

    name: str
    inlined: tuple[str, ...]
    blocks: tuple[BlockReport, ...]

    @property
    def covered(self) -> int:
        """How many blocks ran."""
        return sum(block.count > 0 for block in self.blocks)

    @property
    def percent(self) -> float:
        """How many of a hundred blocks ran."""
        return 100 * self.covered / len(self.blocks)

    @property
    def possible(self) -> int:
        """How many blocks there are but those that can never run."""
        return sum(not (block.reason and block.reason.never) for block in self.blocks)

    @property
    def percent_of_possible(self) -> float:
        """How many of a hundred blocks ran, of those that can."""
        return 100 * self.covered / self.possible if self.possible else 100.0

    @property
    def missing(self) -> tuple[BlockReport, ...]:
        """The blocks that did not run."""
        return tuple(block for block in self.blocks if not block.count)


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """What was covered. `wrong` are the declared reasons that do not hold.

    `runs` say what was run: a machine and a trace, or how many random steps.
    """

    release: str
    build_id: str
    runs: tuple[str, ...]
    functions: tuple[FunctionReport, ...]
    wrong: tuple[str, ...]

    @property
    def unexplained(self) -> tuple[tuple[str, int], ...]:
        """The blocks that did not run and have no reason: function and distance."""
        return tuple(
            (function.name, block.at)
            for function in self.functions
            for block in function.missing
            if block.reason is None
        )


def make_report(
    release: str,
    build_id: str,
    runs: Sequence[str],
    functions: Sequence[FunctionBlocks],
    counts: Mapping[int, int],
    reasons: Reasons | None,
) -> CoverageReport:
    """Return the report. `counts` says how often each block ran, by its offset."""
    made = []
    for some in functions:
        name = some.function.name
        blocks = []
        for block in some.blocks:
            at, count = some.relative(block), counts[block.start]
            reason = reasons.of(name, at) if reasons is not None and not count else None
            blocks.append(BlockReport(at, block, count, reason))
        inlined = INLINED.get(some.function.source_name, ())
        made.append(FunctionReport(name, inlined, tuple(blocks)))
    wrong = wrong_reasons(reasons, functions, counts) if reasons is not None else []
    return CoverageReport(release, build_id, tuple(runs), tuple(made), tuple(wrong))


def coverage_document(report: CoverageReport) -> dict[str, Any]:
    """Return the document that `coverage --json` prints. Offsets are of the module's file."""
    return {
        "schema": SCHEMA,
        "kernel": {"release": report.release, "module": "kvm_hv", "build_id": report.build_id},
        "runs": list(report.runs),
        "functions": [
            {
                "name": function.name,
                "inlined": list(function.inlined),
                "blocks": len(function.blocks),
                "covered": function.covered,
                "percent": round(function.percent, 1),
                "possible": function.possible,
                "percent_of_possible": round(function.percent_of_possible, 1),
                "block": [_block_document(block) for block in function.blocks],
            }
            for function in report.functions
        ],
        "wrong_reasons": list(report.wrong),
    }


def _block_document(block: BlockReport) -> dict[str, Any]:
    return {
        "at": hex(block.at),
        "offset": hex(block.block.start),
        "size": block.block.end - block.block.start,
        "count": block.count,
        **({} if block.reason is None else {"reason": asdict(block.reason)}),
    }
