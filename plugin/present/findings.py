"""Findings of the audit, for the terminal and as JSON (`nestscope.check/1`)."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table

from nestscope.decoders.state import State
from nestscope.sim.invariants import Violation

SCHEMA = "nestscope.check/1"

_ADDRESSES = frozenset({"kvm", "n_gpa", "address"})
_MEMBERS = ("kvm", "memslot", "gfn", "l1_lpid", "n_gpa", "address")


def findings_document(state: State, found: Sequence[Violation]) -> dict[str, Any]:
    """Return the document that `check --json` prints; each finding has the members that apply."""
    return {
        "schema": SCHEMA,
        "source": {"kind": state.source.kind, "name": state.source.name},
        "kernel": {"release": state.kernel.release, "page_shift": state.kernel.page_shift},
        "findings": [finding_document(violation) for violation in found],
        "problems": [
            {
                "path": problem.path,
                "message": problem.message,
                "address": None if problem.address is None else hex(problem.address),
            }
            for problem in state.problems
        ],
    }


def finding_document(violation: Violation) -> dict[str, Any]:
    """Return one finding with the members that apply to it."""
    members: dict[str, Any] = {
        "rule": violation.rule,
        "severity": violation.severity,
        "message": f"{violation.name}: {violation.message}",
    }
    for name in _MEMBERS:
        value = getattr(violation, name)
        if value is not None:
            members[name] = hex(value) if name in _ADDRESSES else value
    return members


def findings_table(found: Sequence[Violation]) -> Table:
    """Return one row a finding: rule, what is wrong, where."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule")
    table.add_column("severity")
    table.add_column("what is wrong")
    table.add_column("where")
    for violation in found:
        style = "red" if violation.severity == "error" else None
        table.add_row(
            violation.rule,
            violation.severity,
            f"{violation.name}: {violation.message}",
            "\n".join(finding_places(violation)),
            style=style,
        )
    return table


def finding_places(violation: Violation) -> Iterator[str]:
    """Yield where a finding is: the members that apply, with their names."""
    for name in _MEMBERS:
        value = getattr(violation, name)
        if value is not None:
            shown = value if name in {"memslot", "l1_lpid"} else hex(value)
            yield f"{name} {shown}"
