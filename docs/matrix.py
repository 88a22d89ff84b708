"""Write matrix.md: run the cells of tests/plugin/test_matrix.py and note what came out.

.venv/bin/python docs/matrix.py            # every cell
.venv/bin/python docs/matrix.py others     # those of other kernels and QEMUs only
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from tests.plugin.test_matrix import (  # noqa: E402
    COLUMNS,
    FLAVOURS,
    MACHINES,
    MODEL,
    OTHERS,
    STEPS,
)

_HEAD = """# Kernels, machines, sources

Written by `docs/matrix.py` from a run of `tests/plugin/test_matrix.py`; do not edit.

Each row is a boot of an unmodified Debian kernel in QEMU. `boot` is the time in seconds until
the agent answers, `steps/s` the compared steps of `nestscope diff` ({steps} random ones), both
on a shared machine of two cores; *model* says that no step differed. Each source is then opened
without the kernel's files (only GDB is given vmlinux), and its State must equal the live one
and its leaves the kernel's own debugfs listing, leaf for leaf.

On powernv the kernel is the bottom hypervisor; on pseries QEMU is one below it.

Debian's QEMU is built without lzo and snappy, so it writes kdump-zlib only. The other forms of
kdump-compressed dumps come from the real makedumpfile for ppc64el, given a dump that
`nestscope convert` made: zlib, lzo, zstd, not packed, split in three, flattened
(`tests/plugin/dumps/test_makedumpfile.py`; its build has no snappy, which is tested on hand-made
dumps and against libkdumpfile). `kdumpfile:FILE` has libkdumpfile unpack the pages; it is no
default: libkdumpfile 0.5.1 copies from behind the end of a mapped file that is cut short (SIGBUS),
and follows a null pointer in `kdump_free` (SIGSEGV).
"""


_OTHERS = """## Other kernels, other QEMUs

Kernels of other suites of Debian, fetched by name (`nestscope lab fetch sid-64k`), and QEMUs
of other releases (`nestscope lab fetch-qemu trixie`): what these were when the table was made.
*R, C* says who sets the bits R and C of a leaf: QEMU before 8.2 does it itself; later ones
interrupt, as POWER9 does, and the kernel does it.

Three cells say *no*. From QEMU 10 the powernv machines have memory of on-chip controllers above
32 TiB. The bitmap of a kdump file, which counts pages from 0, then grows to 1 GiB and more, and
is refused (`MAX_BITMAP`): take ELF there.
"""


def run(function: str) -> ElementTree.Element:
    """Run the cells of a test; return pytest's JUnit report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", function]
        command += ["-o", "addopts=", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([*command, "tests/plugin/test_matrix.py"], cwd=ROOT, check=False)
        return ElementTree.parse(report).getroot()


def outcome(case: ElementTree.Element | None) -> str:
    """Return `yes`, `no`, or why a cell was skipped."""
    if case is None:
        return "not run"
    if case.find("failure") is not None or case.find("error") is not None:
        return "no"
    skipped = case.find("skipped")
    if skipped is not None and skipped.get("type") == "pytest.xfail":
        return "no"
    return "yes" if skipped is None else f"skipped: {skipped.get('message')}"


def properties(case: ElementTree.Element | None) -> dict[str, str]:
    """Return what a test recorded beside its outcome."""
    found = [] if case is None else case.iter("property")
    return {str(item.get("name")): str(item.get("value")) for item in found}


def table(report: ElementTree.Element) -> str:
    """Return the table in Markdown."""
    cases = {str(case.get("name")): case for case in report.iter("testcase")}
    lines = [
        "| " + " | ".join(("kernel", "machine", "boot", "steps/s", *COLUMNS)) + " |",
        "|---|---|---:|---:|" + ":---:|" * len(COLUMNS),
    ]
    for kernel in FLAVOURS:
        for machine in MACHINES:
            row = [cases.get(f"test_cell[{kernel}-{machine}-{column}]") for column in COLUMNS]
            said = properties(row[COLUMNS.index(MODEL)])
            figures = (said.get("boot", ""), said.get("rate", ""))
            lines.append(f"| {' | '.join((kernel, machine, *figures, *map(outcome, row)))} |")
    return "\n".join(lines)


def others(report: ElementTree.Element) -> str:
    """Return the table of other kernels and QEMUs in Markdown."""
    cases = {str(case.get("name")): case for case in report.iter("testcase")}
    names = ("kernel", "release", "machine", "QEMU", "R, C", "boot", "steps/s", *COLUMNS)
    lines = [
        f"| {' | '.join(names)} |",
        "|---|---|---|---|---|---:|---:|" + ":---:|" * len(COLUMNS),
    ]
    for kernel, machine, qemu in OTHERS:
        row = [
            cases.get(f"test_other_cell[{kernel}|{machine}|{qemu}|{column}]") for column in COLUMNS
        ]
        said = properties(row[COLUMNS.index(MODEL)])
        release, version, rc, boot, rate = (
            said.get(name, "") for name in ("release", "qemu", "rc", "boot", "rate")
        )
        cells = (kernel, release, machine, version, rc, boot, rate, *map(outcome, row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    file = HERE / "matrix.md"
    if sys.argv[1:] == ["others"]:
        first = file.read_text().partition(f"\n{_OTHERS.splitlines()[0]}")[0]
    else:
        first = f"{_HEAD.format(steps=STEPS)}\n{table(run('test_cell'))}\n"
    file.write_text(f"{first}\n{_OTHERS}\n{others(run('test_other_cell'))}\n")
