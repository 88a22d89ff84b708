"""Build the guest agent and the initramfs, each once, in the cache."""

import io
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.build import digest, keep
from nestscope.plugin.qemu.cpio import Entry, write_cpio
from nestscope.plugin.qemu.modules import lab_modules
from nestscope.plugin.qemu.program import COMPILER, build_program

_SOURCES = Path(__file__).parent / "agent"


def build_agent(compiler: str = COMPILER) -> Path:
    """Return the agent's static executable, built now if the cache has none of these sources.

    Raises:
        LabError: if the compiler is missing or fails.
    """
    return build_program("agent", [_SOURCES], compiler)


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
