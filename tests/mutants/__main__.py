"""Run the model's tests against every mutant; say which test catches it.

    python -m tests.mutants [--jobs N] [--report FILE.md] [NAME...]

Each mutant lives in a temporary copy of the package and its tests. Exit status 1
if a mutant survives.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant

SECONDS = 600
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


def main() -> int:
    """Return 0 if every mutant was caught."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", help="only these mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, help="write the list as Markdown")
    wanted = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = sorted(set(wanted.names) - set(known))
    if unknown:
        parser.error(f"there is no mutant {', '.join(unknown)}")
    chosen = [known[name] for name in wanted.names] or list(MUTANTS)
    with package_copy({}) as folder:
        if (failed := run_tests(folder)) is not None:
            print(f"without any mutant {failed} fails: mend that first", file=sys.stderr)
            return 2
    with package_copy({"rmap.py": "raise ImportError('canary')"}) as folder:
        if run_tests(folder) is None:
            print("the tests do not import the mutated copy", file=sys.stderr)
            return 2
    caught: dict[str, str | None] = {}
    with ThreadPoolExecutor(wanted.jobs) as pool:
        for mutant, test in zip(chosen, pool.map(catch, chosen), strict=True):
            caught[mutant.name] = test
            print(f"{mutant.name}: {test or 'SURVIVED'}", flush=True)
    survivors = [name for name, test in caught.items() if test is None]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    if wanted.report:
        wanted.report.write_text("\n".join(report(chosen, caught)) + "\n", encoding="utf-8")
    return 1 if survivors else 0


def catch(mutant: Mutant) -> str | None:
    """Return the first test that fails with the mutant, None if all pass."""
    with package_copy({mutant.file: mutant.source()}) as folder:
        return run_tests(folder)


@contextmanager
def package_copy(changed: dict[str, str]) -> Iterator[Path]:
    """Make a folder with the package and its tests; `changed` are files below `sim/`."""
    without = shutil.ignore_patterns("__pycache__")
    with tempfile.TemporaryDirectory(prefix="nestscope-mutant-") as name:
        folder = Path(name)
        package = folder / "nestscope"
        shutil.copytree(ROOT / "nestscope", package, ignore=without)
        shutil.copytree(ROOT / "sim", package / "sim", ignore=without)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=without)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for part in ("decoders", "plugin"):
            (package / part).symlink_to(ROOT / part)
        (folder / "sim").symlink_to(package / "sim")
        (folder / "docs").symlink_to(ROOT / "docs")
        for file, source in changed.items():
            (package / "sim" / file).write_text(source, encoding="utf-8")
        yield folder


def run_tests(folder: Path) -> str | None:
    """Return the first failing test of the model's suite, None if all pass.

    A suite that does not end in time counts as caught: the mutant hangs.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["-m", "not kernel and not nightly", "--timeout", "120"]
    # The quick ones first: most mutants do not get beyond them.
    command += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/sim/test_*.py"))
    command += ["tests/sim/image", "tests/sim/explore"]
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "NESTSCOPE_HYPOTHESIS": "mutants",
    }
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    if done.returncode == 0:
        return None
    found = _FAILED.search(done.stdout)
    return found[1] if found else f"pytest ended with {done.returncode}"


def report(mutants: Iterable[Mutant], caught: dict[str, str | None]) -> Iterator[str]:
    """Yield the lines of the list."""
    yield "# Mutants of the model"
    yield ""
    yield "Written by `make mutants`. Each is the model with one thing wrong; the last column"
    yield "is the first test that fails with it."
    yield ""
    yield "| mutant | what is wrong | repeats | caught by |"
    yield "|---|---|---|---|"
    for mutant in mutants:
        test = caught[mutant.name]
        shown = f"`{test.removeprefix('tests/')}`" if test else "**survives**"
        yield f"| {mutant.name} | {mutant.wrong} | {mutant.history or ''} | {shown} |"


sys.exit(main())
