"""`nested check`: the audit of `nestscope check`, for the target of GDB."""

from nestscope.decoders.audit.audit import audit
from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.gdb.worker.whole import whole_state
from nestscope.plugin.present.findings import findings_document, findings_view


def check(request: Request) -> Answer:
    """Audit every VM."""
    state = whole_state(request)
    request.session.gdb.progress("judging what was read")
    found = audit(state)
    broken = sum(finding.severity != "info" for finding in found)
    return Answer(findings_document(state, found), (findings_view(state, found),), broken)
