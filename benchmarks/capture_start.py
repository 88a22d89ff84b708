"""Reading a capture from the command line: seconds with the start of the interpreter.

Each run is a fresh process of `nestscope state SAMPLE --json`. The modules are
compiled beforehand, as an installer leaves them, in a folder of the benchmark's own.
Processor time is shown because other programs disturb it less.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

SAMPLE = "sample:6.12-64k"
RUNS = 7
TARGET_MS = 300
TIMEOUT = 60
SHOWN = 6

_PROGRAM = "from nestscope.plugin.cli.main import run; run()"
_ARGUMENTS = ["state", SAMPLE, "--json"]
_IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| +(\w+)")


def run() -> None:
    """Print the figures of issue 4: d of its benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        } | {"PYTHONPYCACHEPREFIX": folder}
        _process(environment)  # compiles the modules, and brings the files into memory
        used = os.times()
        runs = [_process(environment) for _ in range(RUNS)]
        processor = _of_children(os.times()) - _of_children(used)
        empty = min(_process(environment, program="pass") for _ in range(RUNS))
        packages = _imports(environment)
    best, median = min(runs), statistics.median(runs)
    print(
        f"`nestscope {' '.join(_ARGUMENTS)}` in a fresh process: best {best * 1e3:.0f} ms, "
        f"median {median * 1e3:.0f} ms of {RUNS} runs (target: under {TARGET_MS} ms; "
        f"ratio {best * 1e3 / TARGET_MS:.2f}, {median * 1e3 / TARGET_MS:.2f})"
    )
    print(
        f"    time of the processor, on average: {processor / RUNS * 1e3:.0f} ms; "
        f"the interpreter alone: {empty * 1e3:.0f} ms"
    )
    most = sorted(packages.items(), key=lambda item: -item[1])[:SHOWN]
    shown = ", ".join(f"{name} {microseconds / 1e3:.0f}" for name, microseconds in most)
    print(f"    imports, in ms as -X importtime counts them: {shown}")


def _of_children(times: os.times_result) -> float:
    return times.children_user + times.children_system


def _process(environment: dict[str, str], *, program: str = _PROGRAM) -> float:
    """Return the seconds of one process."""
    # Its output is read: a wait with a limit but without a pipe looks only every 50 ms.
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, *_ARGUMENTS],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    return time.perf_counter() - started


def _imports(environment: dict[str, str]) -> dict[str, int]:
    """Return the microseconds that the modules of each package take to import."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _PROGRAM, *_ARGUMENTS],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
    )
    packages: dict[str, int] = {}
    for microseconds, package in _IMPORT.findall(result.stderr):
        name = package if package not in sys.stdlib_module_names else "standard library"
        packages[name] = packages.get(name, 0) + int(microseconds)
    return packages
