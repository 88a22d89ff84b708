"""Findings of the audit, for the terminal and as JSON (`nestscope.check/1`)."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from nestscope.decoders.audit.audit import RULES
from nestscope.decoders.audit.finding import ERROR, INFO, WARNING, Finding
from nestscope.decoders.state import State
from nestscope.decoders.state_json import problem_document
from nestscope.plugin.present.state_view import problem_lines
from nestscope.plugin.present.units import count, counted

SCHEMA = "nestscope.check/1"

_ADDRESSES = frozenset({"kvm", "n_gpa", "address"})
_STYLES = {ERROR: "bold red", WARNING: "bold yellow", INFO: "cyan"}
_CONSEQUENCES = {rule.id: rule.consequence for rule in RULES}
_INDENT = (0, 0, 0, 2)
_DEEPER = (0, 0, 0, 4)
_SHOWN = 20
FINDING_MEMBERS = ("kvm", "memslot", "gfn", "l1_lpid", "n_gpa", "address")
"""Members of a finding that say where it is, in the order in which they are shown."""
"""Members of a finding that say where it is, in the order in which they are shown."""


def findings_document(state: State, found: Sequence[Finding]) -> dict[str, Any]:
    """Return the document that `check --json` prints; each finding has the members that apply."""
    return {
        "schema": SCHEMA,
        "source": {"kind": state.source.kind, "name": state.source.name},
        "kernel": {"release": state.kernel.release, "page_shift": state.kernel.page_shift},
        "findings": [finding_document(finding) for finding in found],
        "problems": [problem_document(problem) for problem in state.problems],
    }


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return one finding with the members that apply to it."""
    members: dict[str, Any] = {
        "rule": finding.rule,
        "severity": finding.severity,
        "message": f"{finding.name}: {finding.message}",
    }
    for name in FINDING_MEMBERS:
        value = getattr(finding, name)
        if value is not None:
            members[name] = hex(value) if name in _ADDRESSES else value
    return members


def findings_view(state: State, found: Sequence[Finding]) -> Group:
    """Return all that `check` shows: the findings, what could not be read, and how much was."""
    leaves = sum(len(guest.leaves) for vm in state.vms for guest in vm.nested)
    end = (
        f"{counted(len(state.vms), 'VM')}, {counted(leaves, 'shadow leaf', 'shadow leaves')} "
        f"checked, {counted(len(found), 'finding')}"
    )
    table = [findings_table(found)] if found else []
    return Group(*table, *problem_lines(state.problems), Text(end))


def findings_table(found: Sequence[Finding]) -> Group:
    """Return the findings rule by rule: what is wrong, where, and what comes of it."""
    return Group(*(_rule(list(same)) for _, same in groupby(found, key=lambda each: each.rule)))


def _rule(found: list[Finding]) -> RenderableType:
    """Return the findings of one rule."""
    first = found[0]
    head = Text.assemble(
        (f"{first.severity} ", _STYLES[first.severity]), (f"{first.rule}  {first.name}", "bold")
    )
    parts: list[RenderableType] = [head]
    for finding in found[:_SHOWN]:
        parts.append(Padding(Text(finding.message), _INDENT))
        parts.append(Padding(Text(", ".join(finding_places(finding)), style="dim"), _DEEPER))
    if len(found) > _SHOWN:
        parts.append(Padding(f"and {count(len(found) - _SHOWN)} more: --json lists them", _INDENT))
    consequence = _CONSEQUENCES.get(first.rule)
    if consequence:
        parts.append(Padding(Text(f"Why it matters: {consequence}", style="italic"), _INDENT))
    return Group(*parts, "")


def finding_places(finding: Finding) -> Iterator[str]:
    """Yield where a finding is: the members that apply, with their names."""
    for name in FINDING_MEMBERS:
        value = getattr(finding, name)
        if value is not None:
            shown = value if name in {"memslot", "l1_lpid"} else hex(value)
            yield f"{name} {shown}"
