"""The explorer's report as Markdown: what was run, and each kind of broken interleaving."""

from collections.abc import Iterable, Iterator

from nestscope.sim.explore.kinds import KINDS, Kind, kind_of
from nestscope.sim.explore.scenarios import STARTS, Scenario, more, operations, pairs
from nestscope.sim.explore.survey import Broken, Survey, retell, survey

HEAD = """\
# Interleavings

Written by `nestscope explore --markdown`.

The model's kernel paths yield between their critical sections: what runs under
`mmu_lock` is one section, and so is what runs outside it between two places where
another CPU may come in. `tlb_lock`, `slots_lock` and SRCU make a path wait as they do in
the kernel. The explorer runs **every** interleaving of a few paths (equal states are
followed once) and checks the invariants I1 to I6 after every section, with one rule more:
`UAF`, a path uses what the kernel has freed. The host is a POWER9 with 64K pages where R
and C are set at an interrupt.

A kind of break that the rules cannot see is not in here: the model has no TLB, and the
explorer knows only the operations in the table.

Everything here was seen in the model. Where that is a suspected defect of Linux, the
account in [findings](findings/README.md) says how far it is confirmed.

How an order is made to happen on a live kernel: [orders](howto/orders.md).
"""

NO_BREAK = "-"


def full_report() -> tuple[str, list[Broken]]:
    """Explore everything; return the report and what breaks in a way not yet understood."""
    two = survey(pairs())
    three = survey(more())
    broken = [*two.broken, *three.broken]
    new = [one for one in broken if kind_of(one.rule, one.tasks) is None]
    parts = [HEAD, *_totals(two, three), *_pairs_table(two), *_more_table(three)]
    parts += ["## What breaks, and how\n"]
    for kind in KINDS:
        mine = [one for one in broken if kind_of(one.rule, one.tasks) == kind]
        if mine:
            parts += _kind(kind, mine)
    parts += [f"### Not understood: {one.rule}\n{_example(one)}" for one in new]
    return "\n".join(parts), new


def _totals(two: Survey, three: Survey) -> Iterator[str]:
    yield "## What was run\n"
    yield "| | scenarios | interleavings | different states | broken interleavings of |"
    yield "|---|---|---|---|---|"
    for name, total in (("pairs", two), ("more", three)):
        kinds = {_kind_name(one) for one in total.broken}
        yield (
            f"| {name} | {total.scenarios} | {total.interleavings} | {total.states} "
            f"| {len(kinds)} kinds |"
        )
    stuck = len(two.stuck) + len(three.stuck)
    yield f"\nInterleavings in which nobody can go on (deadlocks): {stuck}.\n"


def _pairs_table(two: Survey) -> Iterator[str]:
    starts = "; ".join(start.name for start in STARTS)
    yield (
        f"Every pair of operations starts from {len(STARTS)} states ({starts}), each with and "
        "without one more vCPU that stays in the nested guest. The vCPU of a `fault` is in the "
        "nested guest from the start. The cells say which kinds break.\n"
    )
    operation_names = [task.name for task in operations()]
    yield f"| | {' | '.join(operation_names)} |"
    yield "|" + "---|" * (len(operation_names) + 1)
    for row, left in enumerate(operation_names):
        cells = [
            _kinds_of(two.broken, {left, right}) if column >= row else ""
            for column, right in enumerate(operation_names)
        ]
        yield f"| **{left}** | {' | '.join(cells)} |"
    yield ""


def _kinds_of(broken: Iterable[Broken], tasks: set[str]) -> str:
    kinds = {_kind_name(one) for one in broken if set(one.tasks) == tasks}
    return ", ".join(sorted(kinds)) or NO_BREAK


def _more_table(three: Survey) -> Iterator[str]:
    yield "Meetings of another kind:\n"
    yield "| operations | start | broken |"
    yield "|---|---|---|"
    for scenario in more():
        tasks = {task.name for task in scenario.tasks}
        yield f"| {scenario.name} | {scenario.start} | {_kinds_of(three.broken, tasks)} |"
    yield ""


def _kind(kind: Kind, mine: list[Broken]) -> Iterator[str]:
    yield f"### {kind.id}: {kind.title}\n"
    rules = ", ".join(sorted({one.rule for one in mine}))
    lasts = "yes" if any(one.lasting for one in mine) else "no"
    yield f"Breaks {rules}. Still broken when all operations are done: {lasts}.\n"
    yield f"{kind.text}\n"
    if kind.finding:
        yield f"Account: [{kind.finding[:4]}](findings/{kind.finding})\n"
    where: dict[str, list[str]] = {}
    for one in mine:
        where.setdefault(one.scenario.name, []).append(one.scenario.start)
    yield f"Seen in: {', '.join(f'{name} ({len(starts)})' for name, starts in where.items())}.\n"
    yield _example(min(mine, key=lambda one: len(one.schedule)))


def _example(one: Broken) -> str:
    scenario: Scenario = one.scenario
    lines = [
        f'The shortest one found: {scenario.name}, from "{scenario.start}".\n',
        "| step | who | section | changes |",
        "|---|---|---|---|",
    ]
    for number, told in enumerate(retell(one), start=1):
        changes = "<br>".join(f"{what}: {before} → {after}" for what, before, after in told.changes)
        lines.append(f"| {number} | {told.task} | {told.section} | {changes} |")
    lines.append(f"\n**{one.rule}** ({one.violation.name}): {one.violation.message}\n")
    return "\n".join(lines)


def _kind_name(one: Broken) -> str:
    kind = kind_of(one.rule, one.tasks)
    return f"**{one.rule}, not understood**" if kind is None else kind.id
