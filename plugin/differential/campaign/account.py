"""The account of a finding: one page that a kernel developer can act on."""

from nestscope.plugin.differential.campaign.actions import paths_of
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
    "difference": "The kernel did what the model does not. The model follows the kernel's source, "
    "so one of the two is wrong: either the model misses something that the source says, or "
    "the kernel does not do what its source says it means to.",
    "invariant": "Model and kernel agree, and yet the kernel's own rules do not hold afterwards.",
    "warning": "The kernel reached a WARN of its own.",
    "oops": "The kernel oopsed.",
    "panic": "The kernel panicked.",
    "died": "QEMU or the agent ended, or the job that held them.",
    "hung": "The machine did not answer in time.",
    "agent": "The agent could not carry out an operation that it had begun.",
}
_SECURITY = (
    "**Security.** What a guest does here leaves it or its nested guests with memory that the "
    "host takes for its own, or stops the host. Tell the kernel's security contact first, in "
    "private (Documentation/process/security-bugs.rst), until the cause is known to be harmless."
)
_REACHES_THE_HOST = frozenset({"I1", "I2", "I3"})
_STOPS_THE_HOST = frozenset({"oops", "panic", "hung"})


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
            *_seeded(finding),
            "",
            "## What is broken",
            *_broken(finding),
            "",
            *_where(finding),
            "## Expected and observed",
            *_seen(trouble),
            "",
            "## The program",
            "An operation a line; docs/reference/trace.md of nestscope says what each does.",
            "",
            *(f"    {line}" for line in trace.splitlines()),
            "",
            "## Replay",
            f"    nestscope diff --audit --kernel {target.kernel} --machine {target.machine} trace",
            *_look(finding),
            "",
            *_files(name, finding),
            "",
        ]
    )


def _seeded(finding: ShrunkFinding) -> list[str]:
    names = ", ".join(finding.defects)
    return [f"| **seeded** | {names}: put into this kernel on purpose |"] if names else []


def _broken(finding: ShrunkFinding) -> list[str]:
    trouble = finding.trouble
    lines = [_MEANING[trouble.kind]]
    rules = sorted({violation.rule for violation in trouble.violations})
    if rules:
        lines += ["", "Rules of the nested rmap that do not hold any more:", ""]
        lines += [f"- {rule}: {_RULES.get(rule, 'see docs/audit.md')}" for rule in rules]
    harmful = trouble.kind in _STOPS_THE_HOST or _REACHES_THE_HOST.intersection(rules)
    if harmful and not finding.defects:
        lines += ["", _SECURITY]
    return lines


def _where(finding: ShrunkFinding) -> list[str]:
    """The kernel's functions on the way of the last operation."""
    ways = paths_of(finding.operations[-1]) if finding.operations else []
    if not ways:
        return []
    lines = ["## Where to look", "The way of the last operation through the kernel (arch/powerpc/"]
    lines[-1] += "kvm/book3s_hv_nested.c, book3s_64_mmu_radix.c, book3s_hv.c):"
    lines += ["", *(f"- {action}: {_calls(names)}" for action, names in ways)]
    return [*lines, ""]


def _calls(names: tuple[str, ...]) -> str:
    return " -> ".join(" or ".join(f"`{name}`" for name in choice.split("|")) for choice in names)


def _look(finding: ShrunkFinding) -> list[str]:
    captures = [name for name in ("before", "after") if f"{name}.elf.xz" in finding.files]
    return [
        *(f"    nestscope state {name}.elf.xz" for name in captures),
        *(f"    nestscope check {name}.elf.xz" for name in captures[-1:]),
    ]


def _seen(trouble: Trouble) -> list[str]:
    lines: list[str] = []
    if trouble.differences:
        lines += ["| place | expected (model) | observed (kernel) |", "|---|---|---|"]
        for each in trouble.differences[:_SHOWN]:
            lines.append(f"| `{each.path}` | {each.expected} | {each.observed} |")
        lines += [*_more(len(trouble.differences)), ""]
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
            "after the last operation; `original.trace` is the program that found it."
        )
    return lines
