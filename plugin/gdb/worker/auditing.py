"""`nested check`: the audit of `nestscope check`, for the target of GDB."""

from rich.console import RenderableType
from rich.text import Text

from nestscope.decoders.audit.audit import audit
from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.gdb.worker.answer import problem_lines as lines_of
from nestscope.plugin.gdb.worker.whole import whole_state
from nestscope.plugin.present.findings import findings_document, findings_table
from nestscope.plugin.present.units import count


def check(request: Request) -> Answer:
    """Audit every VM."""
    state = whole_state(request)
    request.session.gdb.progress("judging what was read")
    found = audit(state)
    leaves = sum(len(guest.leaves) for vm in state.vms for guest in vm.nested)
    plural = "" if len(state.vms) == 1 else "s"
    end = f"{count(len(state.vms))} VM{plural}, {count(leaves)} shadow leaves checked, "
    views: tuple[RenderableType, ...] = (
        *([findings_table(found)] if found else []),
        *(Text(line) for line in lines_of(state.problems)),
        Text(f"{end}{count(len(found))} finding{'' if len(found) == 1 else 's'}"),
    )
    broken = sum(finding.severity != "info" for finding in found)
    return Answer(findings_document(state, found), views, broken)
