"""Record a finding: run its shortest program once more and keep everything around its last step."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.actions import covers
from nestscope.plugin.differential.campaign.program import run_program
from nestscope.plugin.differential.campaign.shrink import Budget, Program, shrink
from nestscope.plugin.differential.campaign.station import Station
from nestscope.plugin.differential.campaign.tasks import ShrinkTask, ShrunkFinding
from nestscope.plugin.differential.campaign.trouble import Trouble
from nestscope.plugin.differential.kept import keep_capture
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.invariants import Violation
from nestscope.sim.operations import Operation
from nestscope.sim.trace import format_operation

_CONSOLE_LINES = 400


def shrink_and_record(
    station: Station, task: ShrinkTask, stop: Callable[[], bool] = lambda: False
) -> ShrunkFinding:
    """Shrink a program that showed a trouble, and record the shortest.

    Raises:
        StoppedError, StationLostError, NestscopeError: as `run_program`.
    """
    budget = Budget(station.options.shrink_tries, station.options.shrink_seconds)

    runs = 0

    def shows(program: Program) -> Program | None:
        nonlocal runs
        runs += 1
        result = run_program(station, program, stop)
        same = result.trouble is not None and covers(task.signature, result.trouble.signature)
        return result.executed if same else None

    original = shows(task.operations)
    if original is None:
        # Some troubles show once in a boot only (WARN_ON_ONCE).
        station.retire()
        original = shows(task.operations)
    shortest = shrink(original, shows, budget) if original is not None else task.operations
    trouble, files = _keep(station, shortest, task.signature, stop)
    release = station.booted().live.machine.kernel.release
    return ShrunkFinding(
        trouble=trouble or Trouble("difference", task.signature, task.signature),
        operations=shortest,
        tries=runs,
        seconds=time.monotonic() - budget.started,
        reproduced=trouble is not None and covers(task.signature, trouble.signature),
        release=release,
        files=files,
        defects=station.options.defects,
    )


def _keep(
    station: Station, operations: Sequence[Operation], signature: str, stop: Callable[[], bool]
) -> tuple[Trouble | None, dict[str, bytes]]:
    """Run the program up to its last operation and as a whole; keep what each left behind."""
    files: dict[str, bytes] = {}
    before = run_program(station, operations[:-1], stop)
    if before.trouble is None:
        files |= _capture("before", station.lab)
    trouble = run_program(station, operations, stop).trouble
    if trouble is None or not covers(signature, trouble.signature):
        # What earlier programs left in the kernel matters: once more after a boot.
        station.retire()
        trouble = run_program(station, operations, stop).trouble
    files |= _capture("after", station.lab)
    if trouble is not None:
        tail = station.lab.console_tail(_CONSOLE_LINES) if station.lab else trouble.console
        files["console.log"] = f"{tail}\n".encode()
        last = format_operation(operations[-1])
        files["difference.json"] = _as_json(trouble, last)
        files["difference.txt"] = _as_text(trouble, last)
    return trouble, files


def _capture(name: str, lab: Lab | None) -> dict[str, bytes]:
    """Return a capture of the machine's memory now as a file, or a file that says why not."""
    if lab is None:
        return {}
    try:
        with TemporaryDirectory(prefix="nestscope-capture-") as folder:
            path = Path(folder) / "capture.elf.xz"
            keep_capture(lab, path)
            return {f"{name}.elf.xz": path.read_bytes()}
    except (NestscopeError, OSError) as problem:
        # A machine that failed may have left nothing that can be read; the finding stands.
        return {f"{name}.missing.txt": f"no capture: {problem}\n".encode()}


def _as_json(trouble: Trouble, operation: str) -> bytes:
    document = {
        "schema": "nestscope.finding/1",
        "kind": trouble.kind,
        "signature": trouble.signature,
        "message": trouble.message,
        "operation": operation,
        "differences": [each._asdict() for each in trouble.differences],
        "violations": [_hex_numbers(each) for each in trouble.violations],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _hex_numbers(violation: Violation) -> dict[str, object]:
    """Return a violation as `check --json` has it: addresses as strings."""
    found = {name: value for name, value in violation._asdict().items() if value is not None}
    for name in ("kvm", "n_gpa", "address"):
        if name in found:
            found[name] = hex(found[name])
    return found


def _as_text(trouble: Trouble, operation: str) -> bytes:
    lines = [f"after: {operation}", trouble.message, ""]
    for difference in trouble.differences:
        lines += [
            difference.path,
            f"  model:  {difference.expected}",
            f"  kernel: {difference.observed}",
        ]
    lines += [
        f"{violation.rule} ({violation.name}): {violation.message}"
        for violation in trouble.violations
    ]
    return ("\n".join(lines) + "\n").encode()
