"""`nestscope check`: is it consistent."""

import json
import sys

from nestscope.plugin.cli.options import (
    DebugFolder,
    Json,
    Modules,
    ProfileFile,
    SourceName,
    Vmlinux,
)
from nestscope.plugin.samples import DEFAULT_SOURCE


def check(
    source: SourceName = DEFAULT_SOURCE,
    json_output: Json = False,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Check the invariants of the nested rmap in every VM.

    Exit status 1 if one is broken; what is legal but worth knowing ("info") does
    not count.

    Example: nestscope check dump.elf --json
    """
    from nestscope.plugin.present.findings import findings_document, findings_table
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.target import open_target
    from nestscope.sim.invariants import violations, vms_in_transition

    with open_target(source, vmlinux, modules, profile, debug) as target:
        state = target.state()
    found = violations(state)
    if json_output:
        print(json.dumps(findings_document(state, found)))
    else:
        console = terminal()
        if found:
            console.print(findings_table(found))
        for vm in vms_in_transition(state):
            console.print(f"VM {vm.kvm:#x} is in transition (mmu_lock held): it is not judged")
        for problem in state.problems:
            console.print(f"not read: {problem.path}: {problem.message}", markup=False)
        leaves = sum(len(guest.leaves) for vm in state.vms for guest in vm.nested)
        console.print(
            f"{len(state.vms)} VMs, {leaves} shadow leaves checked, {len(found)} findings"
        )
    sys.exit(1 if any(violation.severity != "info" for violation in found) else 0)
