"""Build the guest agent and the initramfs, each once, in the cache."""

import hashlib
import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from nestscope.plugin.qemu.cache import cache_root
from nestscope.plugin.qemu.cpio import Entry, write_cpio
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.modules import lab_modules

COMPILER = "powerpc64le-linux-gnu-gcc"
_FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-static")
_BUILD_SECONDS = 120
_SOURCES = Path(__file__).parent / "agent"


def _digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()[:20]


def _keep(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, atomically: a half-written file never has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as problem:
        raise LabError(
            f"{command[0]} did not end within {_BUILD_SECONDS} s: try again"
        ) from problem
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise LabError(
            f"{command[0]} failed ({last}): install gcc-powerpc64le-linux-gnu and "
            "libc6-dev-ppc64el-cross"
        )
    return done.stdout


def build_agent(compiler: str = COMPILER) -> Path:
    """Return the agent's static executable, built now if the cache has none of these sources.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    if shutil.which(compiler) is None:
        raise LabError(
            f"there is no {compiler} to build the guest agent: install gcc-powerpc64le-linux-gnu "
            "and libc6-dev-ppc64el-cross"
        )
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in {".c", ".h", ".S"})
    version = _run([compiler, "--version"]).encode()
    key = _digest(version, *(p.name.encode() + b"\0" + p.read_bytes() for p in sources))
    path = cache_root() / "agent" / f"agent-{key}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="nestscope-build-") as folder:
        made = Path(folder) / "agent"
        inputs = [str(p) for p in sources if p.suffix != ".h"]
        _run([compiler, *_FLAGS, "-o", str(made), *inputs])
        return _keep(path, made.read_bytes())


def build_initramfs(modules_dir: Path, agent: Path | None = None) -> Path:
    """Return the initramfs of the agent, kvm and kvm-hv, built now if the cache has none.

    Raises:
        LabError: if a module or the compiler is missing.
    """
    program = (agent or build_agent()).read_bytes()
    modules = lab_modules(modules_dir)
    key = _digest(program, *(name.encode() + b"\0" + elf for name, elf in modules))
    path = cache_root() / "initramfs" / f"initramfs-{key}"
    if path.exists():
        return path
    entries = [
        Entry("dev"),
        Entry("dev/console", device=(5, 1)),
        Entry("modules"),
        Entry("init", program),
        *(Entry(f"modules/{i:02}-{name}.ko", elf) for i, (name, elf) in enumerate(modules)),
    ]
    archive = io.BytesIO()
    write_cpio(archive, entries)
    return _keep(path, archive.getvalue())
