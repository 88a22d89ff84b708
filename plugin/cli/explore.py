"""`nestscope explore`: all interleavings of concurrent operations, in the model."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from nestscope.sim.explore.survey import Survey


def explore(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the whole report as Markdown.")
    ] = False,
) -> None:
    """Run every interleaving of concurrent operations in the model and check the invariants.

    Needs no kernel and no QEMU, and takes seconds. What breaks is described step by step.
    Exit status 1: an invariant breaks.

    Example: nestscope explore --markdown > interleavings.md
    """
    from rich.console import Console
    from rich.progress import Progress

    from nestscope.plugin.present.terminal import terminal
    from nestscope.sim.explore.report import full_report
    from nestscope.sim.explore.scenarios import more, pairs
    from nestscope.sim.explore.survey import survey

    if markdown:
        text, _ = full_report()
        print(text, end="")
        sys.exit(1)
    scenarios = [*pairs(), *more()]
    bar = Console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("exploring", total=len(scenarios))
        found = survey(scenarios, lambda: progress.advance(task))
    _show(found, terminal())
    sys.exit(1 if found.broken or found.stuck else 0)


def _show(found: "Survey", console: "Console") -> None:
    from nestscope.plugin.present.tables import plain_table
    from nestscope.plugin.present.units import count, counted
    from nestscope.sim.explore.export import order_of
    from nestscope.sim.explore.kinds import KINDS, kind_of
    from nestscope.sim.explore.survey import retell

    console.print(
        f"{count(found.scenarios)} scenarios, {count(found.interleavings)} interleavings, "
        f"{count(found.states)} different states; deadlocks: {len(found.stuck)}"
    )
    for kind in (*KINDS, None):
        mine = [one for one in found.broken if kind_of(one.rule, one.tasks) == kind]
        if not mine:
            continue
        shortest = min(mine, key=lambda one: len(one.schedule))
        title = "not understood" if kind is None else kind.title
        console.print()
        table = plain_table("step", title=f"{shortest.rule}: {title}")
        for column in ("who", "section", "changes"):
            table.add_column(column)
        for number, told in enumerate(retell(shortest), start=1):
            changes = "\n".join(f"{what}: {old} -> {new}" for what, old, new in told.changes)
            table.add_row(str(number), told.task, told.section, changes)
        console.print(table)
        console.print(shortest.violation.message, soft_wrap=True)
        console.print(f"as an order: {order_of(shortest)}", markup=False, soft_wrap=True)
        others = len({one.scenario.name for one in mine})
        console.print(f"seen in {counted(len(mine), 'scenario')} of {counted(others, 'meeting')}")
    for scenario, _, why in found.unmodelled:
        console.print(f"not judged: {scenario.name} from {scenario.start}: {why}")
