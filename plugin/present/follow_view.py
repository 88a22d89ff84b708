"""What `nestscope follow` prints: differences as they come, and what was checked."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nestscope.decoders.state import KernelInfo, Source
from nestscope.plugin.differential.follow.follower import Found, Report
from nestscope.plugin.present.units import count, counted


@contextmanager
def live_view(report: Report) -> Iterator[None]:
    """Show on standard error, twice a second, how far it is; only where that is a terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield
        return
    began = time.monotonic()

    def view() -> Group:
        return Group(calls_table(report), Text(summary(report, time.monotonic() - began)))

    # Differences are printed above it, unless standard output leads elsewhere.
    with Live(
        get_renderable=view,
        console=console,
        refresh_per_second=2,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield


def found_line(found: Found) -> str:
    """One line for a difference: when, at which call, what."""
    where = found.call or "comparing everything"
    return f"{found.seconds:8.2f} s  {where}: {found.difference}"


def calls_table(report: Report) -> Table:
    """Calls by function."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kernel function")
    table.add_column("calls checked", justify="right")
    for name, number in sorted(dict(report.tally.calls).items()):
        table.add_row(name, count(number))
    return table


def summary(report: Report, seconds: float | None = None) -> str:
    """What was compared, and how fast; `seconds` since the begin, while it goes on."""
    tally = report.tally
    seconds = report.seconds if seconds is None else seconds
    rate = report.checked / seconds if seconds else 0.0
    lines = [
        f"{count(report.checked)} calls checked in {seconds:.1f} s ({rate:.1f}/s, "
        f"{count(report.stops)} stops, {count(report.foreign)} of them in a guest)",
        f"{count(tally.leaves)} leaves and {count(tally.chains)} chains compared, "
        f"{count(report.wholes)} times everything",
        f"{count(tally.guest_leaves)} new shadow leaves compared with the guest's own tree",
        f"{counted(tally.inner, 'inner call')} made by the model itself, {count(tally.rc_gained)} "
        "leaves gained R or C from the hardware",
    ]
    if tally.unjudged:
        lines.append(f"{count(tally.unjudged)} comparisons left out: another vCPU was in a call")
    if report.missing:
        lines.append(f"not followed in this kernel: {', '.join(report.missing)}")
    lines.append(counted(len(report.found), "difference"))
    return "\n".join(lines)


def follow_document(
    source: Source, kernel: KernelInfo, report: Report, ended: str
) -> dict[str, Any]:
    """Return the document of `--json`, schema `nestscope.follow/1`."""
    tally = report.tally
    return {
        "schema": "nestscope.follow/1",
        "source": {"kind": source.kind, "name": source.name},
        "kernel": {"release": kernel.release, "page_shift": kernel.page_shift},
        "ended": ended,
        "seconds": round(report.seconds, 3),
        "stops": report.stops,
        "stops_in_guests": report.foreign,
        "checked": report.checked,
        "calls": dict(sorted(tally.calls.items())),
        "not_followed": report.missing,
        "inner_calls": tally.inner,
        "leaves": tally.leaves,
        "chains": tally.chains,
        "compared_as_a_whole": report.wholes,
        "guest_leaves": tally.guest_leaves,
        "rc_gained": tally.rc_gained,
        "unjudged": tally.unjudged,
        "differences": [
            {
                "seconds": round(found.seconds, 3),
                "call": found.call or None,
                "path": found.difference.path,
                "expected": found.difference.expected,
                "observed": found.difference.observed,
            }
            for found in report.found
        ],
    }
