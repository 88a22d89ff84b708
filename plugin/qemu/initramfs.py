"""Build the guest agent and the initramfs, each once, in the cache."""

import io
import shutil
import tempfile
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.build import digest, keep, run_tool
from nestscope.plugin.qemu.cpio import Entry, write_cpio
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.modules import lab_modules

COMPILER = "powerpc64le-linux-gnu-gcc"
_FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-static")
_INSTALL = "install gcc-powerpc64le-linux-gnu and libc6-dev-ppc64el-cross"
_SOURCES = Path(__file__).parent / "agent"


def build_agent(compiler: str = COMPILER) -> Path:
    """Return the agent's static executable, built now if the cache has none of these sources.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    if shutil.which(compiler) is None:
        raise LabError(f"there is no {compiler} to build the guest agent: {_INSTALL}")
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in {".c", ".h", ".S"})
    version = run_tool([compiler, "--version"], _INSTALL).encode()
    key = digest(version, *(p.name.encode() + b"\0" + p.read_bytes() for p in sources))
    path = cache_root() / "agent" / f"agent-{key}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="nestscope-build-") as folder:
        made = Path(folder) / "agent"
        inputs = [str(p) for p in sources if p.suffix != ".h"]
        run_tool([compiler, *_FLAGS, "-o", str(made), *inputs], _INSTALL)
        return keep(path, made.read_bytes())


def build_initramfs(modules_dir: Path, agent: Path | None = None) -> Path:
    """Return the initramfs of the agent, kvm and kvm-hv, built now if the cache has none.

    Raises:
        LabError: if a module or the compiler is missing.
    """
    program = (agent or build_agent()).read_bytes()
    modules = lab_modules(modules_dir)
    key = digest(program, *(name.encode() + b"\0" + elf for name, elf in modules))
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
    return keep(path, archive.getvalue())
