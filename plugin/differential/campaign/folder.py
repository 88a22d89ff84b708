"""A campaign's folder: journal, corpus, findings. What was done before is read from it.

DIR/journal.jsonl
DIR/corpus/NAME.trace
DIR/findings/KIND-HASH/account.md trace difference.json ...
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.account import write_account
from nestscope.plugin.differential.campaign.journal import SCHEMA, Journal, write_whole
from nestscope.plugin.differential.campaign.tasks import (
    Options,
    ProgramResult,
    RunTask,
    ShrinkTask,
    ShrunkFinding,
    Target,
)
from nestscope.plugin.differential.trace_file import read_trace
from nestscope.sim.operations import Operation
from nestscope.sim.trace import format_trace

JOURNAL = "journal.jsonl"
_UNSAFE = re.compile(r"[^a-z0-9]+")


@dataclass
class Finding:
    """A trouble by its signature: where it is written, how often it came, whether it is shrunk.

    `target` is the one where it came first, `targets` are all where it came. `shows` is
    the signature of what its shortest program shows.
    """

    signature: str
    name: str
    target: Target
    count: int = 1
    shrunk: bool = False
    length: int = 0
    shows: str = ""
    targets: set[Target] = field(default_factory=set)


@dataclass
class Totals:
    """Sums over a target's programs, those of earlier runs included."""

    programs: int = 0
    steps: int = 0
    seconds: float = 0.0
    refused: int = 0
    chains: int = 0
    entries: int = 0
    leaves: int = 0


@dataclass
class CampaignFolder:
    """What a campaign knows, all of it on the disk."""

    path: Path
    journal: Journal
    findings: dict[str, Finding] = field(default_factory=dict)
    totals: dict[Target, Totals] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    unmodelled: dict[str, int] = field(default_factory=dict)
    blocks: set[int] = field(default_factory=set)
    corpus: dict[str, tuple[Operation, ...]] = field(default_factory=dict)
    done: set[tuple[Target, str]] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path) -> "CampaignFolder":
        """Open a campaign's folder, make it if there is none; take in what was done before.

        Raises:
            NestscopeError: if it cannot be used.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NestscopeError(
                f"{path} cannot be made ({error.strerror}): give another --folder"
            ) from error
        folder = cls(path, Journal(path / JOURNAL))
        try:
            folder._replay()
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Let another campaign have the folder."""
        self.journal.close()

    def begin(self, options: Options, **values: object) -> None:
        """Note that a run begins."""
        self.journal.append(
            "begin", schema=SCHEMA, via=options.via, defects=list(options.defects), **values
        )

    def take(self, task: RunTask, result: ProgramResult) -> Finding | None:
        """Keep what a program gave; return the finding if its trouble is a new one.

        The finding's trace is on the disk before the program counts as done: a kill
        between the two runs the program again.

        Raises:
            NestscopeError: if the disk is full.
        """
        new_blocks = sorted(result.blocks - self.blocks)
        if new_blocks and result.trouble is None:
            text = format_trace(result.executed).encode()
            write_whole(self.path / "corpus" / f"{_slug(task.name)}.trace", text)
            self.corpus[_slug(task.name)] = result.executed
        trouble = result.trouble
        name = finding_name(trouble.signature) if trouble else None
        new = trouble is not None and trouble.signature not in self.findings
        if trouble is not None and name is not None and new:
            note = f"# {trouble.message}\n# not shrunk yet\n"
            header, _, lines = format_trace(result.executed).partition("\n")
            self._keep(name, "original.trace", f"{header}\n{note}{lines}".encode())
        self.journal.append(
            "program",
            kernel=task.target.kernel,
            machine=task.target.machine,
            name=task.name,
            steps=result.steps,
            seconds=round(result.seconds, 4),
            refused=result.refused,
            unmodelled=result.unmodelled,
            known=result.known,
            compared=list(result.compared),
            blocks=new_blocks,
            corpus=bool(new_blocks) and trouble is None,
            finding=trouble.signature if trouble else None,
        )
        self._program(self.journal.entries[-1])
        return self.findings[trouble.signature] if trouble is not None and new else None

    def keep_shrunk(self, finding: Finding, shrunk: ShrunkFinding) -> None:
        """Write the folder of a finding that was shrunk.

        Raises:
            NestscopeError: if the disk is full.
        """
        for name, data in shrunk.files.items():
            self._keep(finding.name, name, data)
        trace, account = write_account(finding.name, finding.target, shrunk)
        self._keep(finding.name, "trace", trace.encode())
        self._keep(finding.name, "account.md", account.encode())
        self.journal.append(
            "shrunk",
            finding=finding.signature,
            operations=len(shrunk.operations),
            tries=shrunk.tries,
            seconds=round(shrunk.seconds, 2),
            reproduced=shrunk.reproduced,
            shows=shrunk.trouble.signature,
        )
        self._shrunk(self.journal.entries[-1])

    def same_as(self, finding: Finding) -> str | None:
        """Return the signature of the finding that a group shrank to, None if it is one itself."""
        other = finding.shows != finding.signature and finding.shows in self.findings
        return finding.shows if other else None

    def to_shrink(self) -> list[ShrinkTask]:
        """Return the tasks that an earlier run left behind."""
        return [self.shrink_task(each) for each in self.findings.values() if not each.shrunk]

    def shrink_task(self, finding: Finding) -> ShrinkTask:
        """Return the task that shrinks a finding, from its trace on the disk."""
        operations = read_trace(self.path / "findings" / finding.name / "original.trace")
        return ShrinkTask(finding.target, finding.signature, tuple(operations))

    def _keep(self, finding: str, name: str, data: bytes) -> None:
        write_whole(self.path / "findings" / finding / name, data)

    def _replay(self) -> None:
        for entry in self.journal.entries:
            if entry["event"] == "program":
                self._program(entry)
            elif entry["event"] == "shrunk":
                self._shrunk(entry)
        for pattern in ("corpus/.*.new", "findings/*/.*.new"):
            for half in self.path.glob(pattern):
                half.unlink()  # a kill came while it was written
        for trace in sorted((self.path / "corpus").glob("*.trace")):
            self.corpus.setdefault(trace.stem, tuple(read_trace(trace)))

    def _program(self, entry: dict[str, object]) -> None:
        target = Target(str(entry["kernel"]), str(entry["machine"]))
        self.done.add((target, str(entry["name"])))
        totals = self.totals.setdefault(target, Totals())
        totals.programs += 1
        totals.steps += _number(entry["steps"])
        totals.refused += _number(entry["refused"])
        seconds, compared = entry["seconds"], entry["compared"]
        totals.seconds += float(seconds) if isinstance(seconds, int | float) else 0.0
        if isinstance(compared, list):
            totals.chains += _number(compared[0])
            totals.entries += _number(compared[1])
            totals.leaves += _number(compared[2])
        known, blocks = entry["known"], entry["blocks"]
        if isinstance(known, dict):
            for number, count in known.items():
                self.known[number] = self.known.get(number, 0) + count
        if isinstance(blocks, list):
            self.blocks.update(blocks)
        if entry["unmodelled"]:
            why = str(entry["unmodelled"])
            self.unmodelled[why] = self.unmodelled.get(why, 0) + 1
        if entry["finding"]:
            signature = str(entry["finding"])
            if signature in self.findings:
                self.findings[signature].count += 1
            else:
                name = finding_name(signature)
                self.findings[signature] = Finding(signature, name, target)
            self.findings[signature].targets.add(target)

    def _shrunk(self, entry: dict[str, object]) -> None:
        finding = self.findings[str(entry["finding"])]
        finding.shrunk, finding.length = True, _number(entry["operations"])
        finding.shows = str(entry.get("shows", finding.signature))


def finding_name(signature: str) -> str:
    """Return the folder name of a finding: what it is, and a hash that makes it unique."""
    words = _UNSAFE.sub("-", signature.lower()).strip("-")[:48].strip("-")
    return f"{words}-{hashlib.sha256(signature.encode()).hexdigest()[:8]}"


def _slug(name: str) -> str:
    return _UNSAFE.sub("-", name.lower()).strip("-")


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
