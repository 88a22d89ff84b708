"""A campaign on the terminal: what each job does, rates, findings."""

import time
from collections import deque
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nestscope.plugin.differential.campaign.campaign import Campaign
from nestscope.plugin.differential.campaign.folder import CampaignFolder
from nestscope.plugin.differential.campaign.known import KNOWN
from nestscope.plugin.differential.campaign.tasks import RunTask
from nestscope.plugin.present.units import count

_WINDOW_SECONDS = 20.0
_SHOWN_FINDINGS = 8


class Progress:
    """Live figures on standard error, only where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._history: deque[tuple[float, int]] = deque()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def show(self, campaign: Campaign) -> None:
        """Show how far the campaign is."""
        if self._live.is_started:
            self._live.update(self._view(campaign), refresh=True)

    def _view(self, campaign: Campaign) -> Group:
        folder = campaign.folder
        steps = sum(each.steps for each in folder.totals.values())
        now = time.monotonic()
        self._history.append((now, steps))
        while now - self._history[0][0] > _WINDOW_SECONDS:
            self._history.popleft()
        then, before = self._history[0]
        rate = (steps - before) / (now - then) if now > then else 0.0
        jobs = Table(box=None, pad_edge=False, show_header=False)
        for slot in campaign.pool.slots:
            task = campaign.running.get(slot)
            doing = "waits"
            if task is not None:
                doing = task.name if isinstance(task, RunTask) else f"shrinks {task.signature}"
            jobs.add_row(slot, str(task.target) if task else "", doing)
        programs = sum(each.programs for each in folder.totals.values())
        elapsed = f"{timedelta(seconds=round(now - self._started))}"
        line = Text(
            f"{elapsed}  {count(programs)}{_goal(campaign)} programs  {count(steps)} steps  "
            f"{rate:.0f} steps/s  {count(len(folder.blocks))} covered  "
            f"{count(len(folder.corpus))} kept  "
        )
        found = len(folder.findings)
        line.append(f"{found} finding{'s' * (found != 1)}", style="bold red" if found else "green")
        shown = list(folder.findings.values())[-_SHOWN_FINDINGS:]
        lines = [Text(f"  {each.count} x {each.signature}", style="red") for each in shown]
        return Group(jobs, line, *lines)


def _goal(campaign: Campaign) -> str:
    """Return how many programs there will be, if that is known."""
    programs = campaign.limits.programs
    return f" of {count(programs * len(campaign.targets))}" if programs is not None else ""


def summary(folder: CampaignFolder) -> Group:
    """Return what a campaign did and found, as tables."""
    parts: list[Table | Text] = [_totals(folder)]
    if folder.known:
        titles = {known.number: known.title for known in KNOWN}
        for number, times in sorted(folder.known.items()):
            parts.append(Text(f"known finding {number} ({titles[number]}): {count(times)} times"))
    for why, times in sorted(folder.unmodelled.items()):
        parts.append(Text(f"{count(times)} programs ended where the model ends: {why}"))
    if folder.findings:
        parts.append(_findings(folder))
    else:
        parts.append(Text("no difference, no broken invariant, no warning", style="green"))
    return Group(*parts)


def _totals(folder: CampaignFolder) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("kernel and machine", no_wrap=True)
    for name in ("programs", "steps", "/s", "chains", "entries", "leaves"):
        table.add_column(name, justify="right", no_wrap=True)
    for target, each in sorted(folder.totals.items()):
        rate = each.steps / each.seconds if each.seconds else 0.0
        figures = (each.programs, each.steps, round(rate), each.chains, each.entries, each.leaves)
        table.add_row(str(target), *(count(figure) for figure in figures))
    return table


def _findings(folder: CampaignFolder) -> Text:
    """Two lines a finding, which a narrow terminal or a file does not break into columns."""
    text = Text(no_wrap=True, overflow="ignore")
    for finding in folder.findings.values():
        if (same := folder.same_as(finding)) is not None:
            text.append(f"{finding.signature}\n    the same as: {same}\n")
            continue
        account = folder.path / "findings" / finding.name / "account.md"
        length = "not shrunk"
        if finding.shrunk:
            length = f"{count(finding.length)} operation{'s' * (finding.length != 1)}"
        times = "once" if finding.count == 1 else f"{count(finding.count)} times"
        where = ", ".join(str(target) for target in sorted(finding.targets))
        text.append(f"{finding.signature}\n", style="bold red")
        text.append(f"    {times}, {length}, {where}\n    {account}\n")
    return text
