"""The account of a finding: one page that a kernel developer can act on."""

from nestscope.plugin.differential.campaign.tasks import ShrunkFinding, Target
from nestscope.plugin.differential.campaign.trouble import Trouble
from nestscope.sim.operations import Operation
from nestscope.sim.trace import format_trace

_SHOWN = 12
_CONSOLE_LINES = 40

_RULES = {
    "I1": "every shadow leaf has an rmap entry (`kvmhv_insert_nest_rmap`); without one "
    "`kvmhv_remove_nest_rmap_range` cannot find the leaf when its host page goes away",
    "I2": "a shadow leaf maps the page that the covering host leaf maps (`kvmhv_remove_nest_rmap`)",
    "I3": "a shadow leaf permits no more than its host leaf (`__kvmhv_nested_page_fault`)",
    "I4": "R and C of a shadow leaf are set in its host leaf, too "
    "(`kvmhv_update_nest_rmap_rc_list`)",
    "I5": "a chain is well-formed and has no entry twice (`kvmhv_insert_nest_rmap`)",
    "I6": "a nested guest is consistent with the idr, and shares no LPID or table",
}
_MEANING = {
    "difference": "the kernel did what the model, which follows its source, does not",
    "warning": "the kernel's own WARN was reached",
    "oops": "the kernel oopsed",
    "panic": "the kernel panicked",
    "died": "QEMU or the agent ended",
    "hung": "the machine did not answer in time",
    "agent": "an operation could not be carried out",
}


def write_account(name: str, target: Target, finding: ShrunkFinding) -> tuple[str, str]:
    """Return the trace with comments, and the account in Markdown."""
    trace = commented_trace(finding.trouble, finding.operations)
    return trace, _page(name, target, finding, trace)


def commented_trace(trouble: Trouble, operations: tuple[Operation, ...]) -> str:
    """Return a trace that says at its top what its last operation shows."""
    header, _, lines = format_trace(operations).partition("\n")
    body = lines.rstrip("\n").split("\n")
    what = f"# The last operation shows it: {trouble.message.splitlines()[0]}"
    return "\n".join([header, what, *body[:-1], "# here", *body[-1:], ""])


def _page(name: str, target: Target, finding: ShrunkFinding, trace: str) -> str:
    trouble = finding.trouble
    count = len(finding.operations)
    shrunk = (
        f"{count} operations, after {finding.tries} tries in {finding.seconds:.0f} s"
        if finding.reproduced
        else f"{count} operations; **it did not show again when it was replayed**, so nothing "
        "was shortened"
    )
    return "\n".join(
        [
            f"# {trouble.signature}",
            "",
            "| | |",
            "|---|---|",
            f"| kernel | {finding.release} (`{target.kernel}`) |",
            f"| machine | QEMU `{target.machine}` |",
            f"| what | {trouble.message.splitlines()[0]} |",
            f"| shortest program | {shrunk} |",
            "",
            "## What is broken",
            *_broken(trouble),
            "",
            "## Expected and observed",
            *_seen(trouble),
            "",
            "## The program",
            *(f"    {line}" for line in trace.splitlines()),
            "",
            "## Replay",
            f"    nestscope diff --audit --kernel {target.kernel} --machine {target.machine} trace",
            "",
            *_files(name, finding),
            "",
        ]
    )


def _broken(trouble: Trouble) -> list[str]:
    rules = sorted({violation.rule for violation in trouble.violations})
    if rules:
        return [f"- {rule}: {_RULES.get(rule, 'see docs/audit.md')}" for rule in rules]
    return [f"{_MEANING[trouble.kind][0].upper()}{_MEANING[trouble.kind][1:]}."]


def _seen(trouble: Trouble) -> list[str]:
    lines: list[str] = []
    if trouble.differences:
        lines += ["| place | expected (model) | observed (kernel) |", "|---|---|---|"]
        for each in trouble.differences[:_SHOWN]:
            lines.append(f"| `{each.path}` | {each.expected} | {each.observed} |")
        lines += _more(len(trouble.differences))
    for violation in trouble.violations[:_SHOWN]:
        lines.append(f"- {violation.rule}: {violation.message}")
    lines += _more(len(trouble.violations))
    if trouble.console:
        lines += ["", "The end of the console:", ""]
        lines += [f"    {line}" for line in trouble.console.splitlines()[-_CONSOLE_LINES:]]
    return lines or [trouble.message]


def _more(count: int) -> list[str]:
    return ["", f"and {count - _SHOWN} more"] if count > _SHOWN else []


def _files(name: str, finding: ShrunkFinding) -> list[str]:
    shown = ["trace", "original.trace", *sorted(finding.files)]
    lines = [f"Files of `{name}`: {', '.join(f'`{each}`' for each in shown)}."]
    if "after.elf.xz" in finding.files:
        lines.append(
            "The captures hold what `nestscope state`, `walk` and `check` read, before and "
            "after the last operation."
        )
    return lines
