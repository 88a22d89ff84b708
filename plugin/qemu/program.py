"""Build a static program for the machine, from its C sources and those of every init of ours."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.build import digest, keep, run_tool
from nestscope.plugin.qemu.errors import LabError

COMPILER = "powerpc64le-linux-gnu-gcc"
_FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-static")
_INSTALL = "install gcc-powerpc64le-linux-gnu and libc6-dev-ppc64el-cross"
_INIT = Path(__file__).parent / "init"
_SUFFIXES = frozenset({".c", ".h", ".S"})


def build_program(name: str, sources: Sequence[Path], compiler: str = COMPILER) -> Path:
    """Return the executable, built now if the cache has none of these sources.

    `sources` are files and folders of files; the folder `init` is added.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    if shutil.which(compiler) is None:
        raise LabError(f"there is no {compiler} to build {name}: {_INSTALL}")
    files = [file for path in (*sources, _INIT) for file in _files(path)]
    version = run_tool([compiler, "--version"], _INSTALL).encode()
    key = digest(version, *(p.name.encode() + b"\0" + p.read_bytes() for p in files))
    path = cache_root() / "agent" / f"{name}-{key}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="nestscope-build-") as folder:
        made = Path(folder) / name
        inputs = [str(file) for file in files if file.suffix != ".h"]
        run_tool([compiler, *_FLAGS, f"-I{_INIT}", "-o", str(made), *inputs], _INSTALL)
        return keep(path, made.read_bytes())


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
