"""The wheel, made from the sdist alone, installed into an empty environment and used there."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]


def run(*command: object, folder: Path) -> str:
    """Run a command away from the checkout, with nothing of it on any path."""
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment that has the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("packaging")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT, folder=folder)
    sdist = next(folder.glob("nestscope-*.tar.gz"))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sdist, folder=folder)
    wheel = next(folder.glob("nestscope-*.whl"))
    venv.create(folder / "env", with_pip=True)
    binaries = folder / "env" / "bin"
    run(binaries / "pip", "install", "-q", wheel, folder=folder)
    return binaries


def test_the_verbs_work_on_the_samples(installed: Path, tmp_path: Path) -> None:
    program = installed / "nestscope"
    state = json.loads(run(program, "state", "sample:6.1-64k", "--json", folder=tmp_path))
    assert state["vms"][0]["nested"]
    assert "findings" in json.loads(run(program, "check", "--json", folder=tmp_path))
    assert "shadow tree" in run(
        program, "walk", "sample:6.12-64k", "0", "--lpid", "2", folder=tmp_path
    )
    run(program, "report", "-o", tmp_path / "report.html", folder=tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_sources_that_are_built_on_demand_are_in_it(installed: Path, tmp_path: Path) -> None:
    program = (
        "from importlib.resources import files; f = files('nestscope.plugin.qemu');"
        "print(*(p.name for d in ('agent', 'init', 'inner', 'tcg') for p in (f / d).iterdir()))"
    )
    names = run(installed / "python", "-c", program, folder=tmp_path).split()
    rooms = ("agent", "init", "inner", "tcg")
    ours = [path for room in rooms for path in (ROOT / "plugin/qemu" / room).iterdir()]
    assert {path.name for path in ours if path.suffix in {".c", ".h", ".S"}} <= set(names)


def test_every_module_of_the_checkout_is_in_it(installed: Path, tmp_path: Path) -> None:
    program = "import nestscope, pathlib; print(pathlib.Path(nestscope.__file__).parent)"
    package = Path(run(installed / "python", "-c", program, folder=tmp_path).strip())
    for room in ("decoders", "sim", "plugin"):
        ours = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*.py")}
        there = {path.relative_to(package) for path in (package / room).rglob("*.py")}
        assert ours == there
