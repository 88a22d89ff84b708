"""Write audit.md: the rules from their declarations, the corruptions, and what was measured.

.venv/bin/python docs/audit.py                       from what was measured before
.venv/bin/python docs/audit.py --measure [PROGRAMS]  corrupt every target, run programs, note it
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from nestscope.decoders.audit.audit import RULES  # noqa: E402
from nestscope.plugin.differential.corruptions.catalogue import (  # noqa: E402
    CORRUPTIONS,
    UNREACHABLE,
)
from nestscope.plugin.differential.corruptions.corruption import prove  # noqa: E402
from nestscope.plugin.differential.corruptions.target import RamTarget, Target  # noqa: E402

RESULTS = HERE / "audit.json"
KERNELS = ("6.12-64k", "6.12-4k", "6.1-64k")
PROGRAMS, STEPS = 1000, 10

_HEAD = """# The audit

Written by `docs/audit.py` from the rules' own declarations and from what it measured; do not
edit.

`nestscope check SOURCE` runs every rule over the State of a dump, a capture, QEMU's RAM file
or a gdbstub. Exit status: 1 if an error or a warning was found, 0 otherwise, 2 if it could not
be done. `--json` prints a document of the schema `nestscope.check/1`, each finding with the
members that apply: `rule`, `severity`, `message`, `kvm`, `memslot`, `gfn`, `l1_lpid`, `n_gpa`,
`address`. In programs: `nestscope.decoders.audit.audit.audit(state) -> list[Finding]`.

- **error**: the kernel does something wrong because of it, or has done so.
- **warning**: a healthy kernel does not get there, but nothing is lost by it yet.
- **info**: legal and worth knowing. It does not change the exit status.

A VM whose `mmu_lock` is held is in transition: it is told (`vm.in-transition`) and not judged.
What could not be read is never called broken; it is among the problems, and rules that would
read the gap as an absence are suspended for that VM.

R and C: QEMU up to 8.1 sets them itself, in the shadow leaf only, which the host cannot follow.
A memory image does not say who set them, so without `--rc kernel` a broken I4 is only
information, and with `--rc hardware` it is not checked.
"""


def rules() -> str:
    """Return one section for each rule."""
    parts = ["## Rules\n\nA stable id names each; before the dot is what it belongs to: I1 to I6 "
             "are the invariants of the nested rmap.\n"]  # fmt: skip
    parts += [
        f"### `{rule.id}` {rule.name}\n\n*{rule.severity}*. {rule.description}\n\n"
        f"**Otherwise:** {rule.consequence}\n\n**`address`:** {rule.address}.\n"
        for rule in RULES
    ]
    return "\n".join(parts)


def corruptions(results: dict[str, Any]) -> str:
    """Return the table of corruptions and where each was noticed."""
    targets = list(results["noticed"])
    text = ["## Corruptions", ""]
    text += [
        f"{len(CORRUPTIONS)} corruptions of a kernel's memory, each of which must make its rule "
        "fire with the right `kvm`, `memslot`, `gfn`, `l1_lpid`, `n_gpa` and `address`. They are "
        "written into images of the model, into the file of a capture of a live kernel, and into "
        "the live kernel itself, which gets its bytes back. ✓: noticed there; -: not possible "
        "with 4K pages. Each cell is a test "
        "(`tests/plugin/differential/corruptions`).", "",
    ]  # fmt: skip
    text.append(f"| corruption | rule | what is overwritten | {' | '.join(targets)} |")
    text.append("|---|---|---|" + "---|" * len(targets))
    for each in CORRUPTIONS:
        cells = [_cell(results["noticed"][target].get(each.name)) for target in targets]
        text.append(f"| {each.name} | `{each.rule}` | {each.what} | {' | '.join(cells)} |")
    text += ["", "Rules without a corruption; States in their tests break them:", ""]
    text += [f"- `{rule}`: {why}" for rule, why in UNREACHABLE.items()]
    return "\n".join(text) + "\n"


def _cell(noticed: bool | None) -> str:
    return "-" if noticed is None else "✓" if noticed else "**missed**"


def health(results: dict[str, Any]) -> str:
    """Return what random programs on unmodified kernels gave."""
    text = ["## Healthy states", ""]
    text += [
        "Random programs on unmodified kernels (pseries, QEMU), each in a new VM: the operations "
        "of the guest, of its VMM and of the host (`sim.profile.DEFAULT`). The audit runs "
        "after every step. Errors and warnings are counted once for each program and place. "
        "*explained*: by a defect of Linux with an account under [findings](findings/README.md). "
        "*unexplained* must be 0.", "",
        "| kernel | programs | steps | states audited | shadow leaves | entries | programs without "
        "a finding | explained | unexplained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kernel, found in results["health"].items():
        explained = ", ".join(f"{n}: {count}" for n, count in sorted(found["explained"].items()))
        text.append(
            f"| {kernel} | {found['programs']} | {found['steps']} | {found['states']} "
            f"| {found['leaves']} | {found['entries']} | {found['clean']} | {explained or 'none'} "
            f"| {len(found['unexplained'])} |"
        )
    ended = {
        what: sum(found[what] for found in results["health"].values())
        for what in ("differing", "unmodelled", "failed")
    }
    text += ["", f"Programs that ended early: {ended['differing']} by a difference to the model, "
             f"{ended['unmodelled']} where it has no specification, {ended['failed']} by a failure "
             "of the machine."]  # fmt: skip
    return "\n".join(text) + "\n"


def page(results: dict[str, Any]) -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, rules(), corruptions(results), health(results)])


def measure(programs: int) -> dict[str, Any]:
    """Corrupt images, captures and live kernels; run programs on each kernel."""
    from nestscope.plugin.differential.campaign.station import Station  # noqa: PLC0415
    from nestscope.plugin.differential.campaign.tasks import Options  # noqa: PLC0415
    from nestscope.plugin.differential.campaign.tasks import Target as Where  # noqa: PLC0415
    from nestscope.plugin.differential.healthy import Health, audit_programs  # noqa: PLC0415
    from tests.plugin.differential.corruptions.scenes import image_target  # noqa: PLC0415
    from tests.plugin.differential.corruptions.test_capture import opened, write  # noqa: PLC0415
    from tests.plugin.differential.corruptions.test_live import run_scene  # noqa: PLC0415

    noticed = {"image 64K": _all(image_target(16)), "image 4K": _all(image_target(12))}
    healths: dict[str, Any] = {}
    for kernel in KERNELS:
        with Station(Where(kernel, "pseries"), Options()) as station:
            run_scene(station.fresh())
            booted = station.booted()
            running = booted.machine.kernel
            memory = running.memory.physical
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "live.elf"
                write(memory, running, path)
                with opened(path) as target:
                    noticed[f"capture {kernel}"] = _all(target)
            noticed[f"live {kernel}"] = _all(RamTarget(booted.lab.ram_path, memory, running))
            found = Health()
            for found in audit_programs(station, range(1, programs + 1), STEPS):
                if sys.stderr.isatty():
                    print(f"\r{kernel}: {found.programs}", end="", file=sys.stderr)
            healths[kernel] = {**asdict(found), "steps": STEPS}
    return {"noticed": noticed, "health": healths}


def _all(target: Target) -> dict[str, bool]:
    shift = target.kernel.page_shift
    return {e.name: prove(e, target).noticed for e in CORRUPTIONS if shift in e.page_shifts}


def main() -> None:
    """Write the page, after measuring if that is asked for."""
    if sys.argv[1:2] == ["--measure"]:
        programs = int(sys.argv[2]) if len(sys.argv) > 2 else PROGRAMS
        RESULTS.write_text(json.dumps(measure(programs), indent=1) + "\n")
    (HERE / "audit.md").write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
