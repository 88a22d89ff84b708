"""Run the model's tests against every mutant; say which test catches it.

    python -m tests.mutants [--jobs N] [--report FILE.md] [NAME...]

The test that caught a mutant in the report of before is tried first. Each mutant lives
in a temporary copy of the package and its tests. All are made from one copy, so the
checkout may change meanwhile. Exit status 1 if a mutant survives.
"""

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant

SECONDS = 3600
REPORT = "docs/mutants.md"
PARTS = ("nestscope", "sim", "decoders", "plugin", "docs", "tests")
_NOT_THERE = (4, 5)  # pytest: wrong names, no test collected
_FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)
_ERROR = re.compile(r"^ERROR (.+?)(?: - .*)?$", re.MULTILINE)


class UncollectedError(Exception):
    """The tests cannot be run with this source, so they say nothing of the mutant."""


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
    try:
        with snapshot() as base:
            caught = run_all(base, chosen, wanted.jobs)
    except UncollectedError as error:
        print(f"the tests say nothing: {error}", file=sys.stderr)
        return 2
    survivors = [name for name, test in caught.items() if test is None]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    if wanted.report:
        wanted.report.write_text("\n".join(report(chosen, caught)) + "\n", encoding="utf-8")
    return 1 if survivors else 0


def run_all(base: Path, mutants: list[Mutant], jobs: int) -> dict[str, str | None]:
    """Return which test catches each mutant.

    Raises:
        UncollectedError: if the tests fail without any, or do not import the mutated copy.
    """
    with package_copy(base, {}) as folder:
        if (failed := run_tests(folder)) is not None:
            raise UncollectedError(f"without any mutant {failed} fails, mend that first")
    with (
        package_copy(base, {"rmap.py": "raise ImportError('canary')"}) as folder,
        suppress(UncollectedError),
    ):
        run_tests(folder)
        raise AssertionError("the tests do not import the mutated copy")
    caught: dict[str, str | None] = {}
    with ThreadPoolExecutor(jobs) as pool:
        before = caught_before(base)
        tests = pool.map(lambda mutant: catch(base, mutant, before.get(mutant.name)), mutants)
        for mutant, test in zip(mutants, tests, strict=True):
            caught[mutant.name] = test
            print(f"{mutant.name}: {test or 'SURVIVED'}", flush=True)
    return caught


def catch(base: Path, mutant: Mutant, before: str | None) -> str | None:
    """Return a test that fails with the mutant, None if all pass.

    `before` caught it the last time; most mutants need no other.
    """
    with package_copy(base, {mutant.file: mutant.source(base)}) as folder:
        return (before and run_tests(folder, [before])) or run_tests(folder)


def caught_before(base: Path) -> dict[str, str]:
    """Return which test caught each mutant, from the report."""
    rows = (line.split(" | ") for line in (base / REPORT).read_text("utf-8").splitlines())
    return {
        row[0].removeprefix("| "): f"tests/{row[-1].removesuffix(' |').strip('`')}"
        for row in rows
        if row[-1].startswith("`") and ".py::" in row[-1]
    }


@contextmanager
def snapshot() -> Iterator[Path]:
    """Make a copy of the checkout's Python, compiled once for all mutants."""
    with tempfile.TemporaryDirectory(prefix="nestscope-mutants-") as name:
        base = Path(name)
        for part in PARTS:
            without = shutil.ignore_patterns("__pycache__", "_build")
            shutil.copytree(ROOT / part, base / part, ignore=without)
        shutil.copy(ROOT / "pyproject.toml", base)
        compileall.compile_dir(base, quiet=2)
        yield base


@contextmanager
def package_copy(base: Path, changed: dict[str, str]) -> Iterator[Path]:
    """Make a folder with the package and its tests; `changed` are files below `sim/`."""
    with tempfile.TemporaryDirectory(prefix="nestscope-mutant-") as name:
        folder = Path(name)
        package = folder / "nestscope"
        shutil.copytree(base / "nestscope", package)
        shutil.copytree(base / "sim", package / "sim")
        shutil.copytree(base / "tests", folder / "tests")
        shutil.copy(base / "pyproject.toml", folder)
        for part in ("decoders", "plugin"):
            (package / part).symlink_to(base / part)
        (folder / "sim").symlink_to(package / "sim")
        (folder / "docs").symlink_to(base / "docs")
        for file, source in changed.items():
            (package / "sim" / file).write_text(source, encoding="utf-8")
        yield folder


def run_tests(folder: Path, only: Sequence[str] = ()) -> str | None:
    """Return the first failing test of the model's suite or of `only`, None if all pass.

    A test of `only` that is not there any more passes. A suite that does not end in time
    counts as caught: the mutant hangs.

    Raises:
        UncollectedError: if a test file cannot be imported.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["-m", "not kernel and not nightly", "--timeout", "120"]
    # The quick ones first: most mutants do not get beyond them.
    command += only or sorted(
        str(path.relative_to(folder)) for path in folder.glob("tests/sim/test_*.py")
    )
    command += () if only else ["tests/sim/image", "tests/sim/explore"]
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
    if done.returncode == 0 or (only and done.returncode in _NOT_THERE):
        return None
    if found := _FAILED.search(done.stdout):
        return found[1]
    if found := _ERROR.search(done.stdout):
        # In a fixture a mutant may raise; a file that cannot be imported has no test in its name.
        if "::" in found[1]:
            return found[1]
        raise UncollectedError(f"{found[1]} cannot be imported")
    return f"pytest ended with {done.returncode}"


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
