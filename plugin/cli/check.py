"""`nestscope check`: is it consistent."""

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from nestscope.plugin.cli.options import (
    DebugFolder,
    Json,
    Modules,
    ProfileFile,
    SourceName,
    Vmlinux,
)
from nestscope.plugin.samples import DEFAULT_SOURCE


class SetsRc(StrEnum):
    """Who sets R and C of the leaves."""

    UNKNOWN = "unknown"
    HARDWARE = "hardware"
    KERNEL = "kernel"


def check(
    source: SourceName = DEFAULT_SOURCE,
    json_output: Json = False,
    rc: Annotated[
        SetsRc,
        typer.Option(
            help="Who sets R and C: the hardware itself (QEMU up to 8.1), or the kernel after "
            "an interrupt (QEMU from 8.2, POWER9). Unknown: a broken I4 is only information."
        ),
    ] = SetsRc.UNKNOWN,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Audit every VM: the rules are listed in docs/audit.md.

    Exit status 1 if one is broken; what is legal but worth knowing ("info") does
    not count.

    Example: nestscope check dump.elf --json
    """
    from nestscope.decoders.audit.audit import audit
    from nestscope.plugin.present.findings import findings_document, findings_view
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.target import open_target

    with open_target(source, vmlinux, modules, profile, debug) as target:
        state = target.state()
    by_hardware = None if rc is SetsRc.UNKNOWN else rc is SetsRc.HARDWARE
    found = audit(state, rc_by_hardware=by_hardware)
    if json_output:
        print(json.dumps(findings_document(state, found)))
    else:
        terminal().print(findings_view(state, found))
    sys.exit(1 if any(finding.severity != "info" for finding in found) else 0)
