"""A module that the user has just built, in the place of the kernel's own one."""

import re
import shutil
import tempfile
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.build import digest
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.modules import find_modules, module_name, read_module
from nestscope.sim.facts import MENDABLE

# Every module says what it was built for (`VERMAGIC_STRING`); the kernel loads no other.
_VERMAGIC = re.compile(rb"\0vermagic=([^\0]{1,400})\0")
_BUILTIN = "modules.builtin"


def parse_own(text: str) -> tuple[Path, frozenset[str]]:
    """Return module and mended findings of `FILE[,NUMBER...]`.

    Raises:
        LabError: for a number that is no finding which the model can do without.
    """
    name, *numbers = text.split(",")
    unknown = sorted(set(numbers) - set(MENDABLE))
    if unknown:
        raise LabError(
            f"the model cannot do without finding '{unknown[0]}': it can without "
            f"{', '.join(MENDABLE)}"
        )
    return Path(name).absolute(), frozenset(numbers)


def with_module(
    kernel: KernelFiles, file: Path, mended: frozenset[str] = frozenset()
) -> KernelFiles:
    """Return `kernel` with the module `file` instead of its own of that name.

    `mended` are the findings that the module does not have any more.

    Nothing of `kernel` is changed: the cache gets a folder of links to its modules and a
    copy of the new one, so that another build meanwhile does no harm.

    Raises:
        LabError: if the file is no module, the kernel has none of that name, or it was
            built for another kernel.
    """
    name = module_name(file)
    own = find_modules(kernel.modules_dir)
    if name not in own:
        raise LabError(f"{kernel.name} has no module {name}: give a kvm.ko or a kvm-hv.ko")
    if not file.is_file():
        raise LabError(f"there is no module {file}: build it first")
    elf = read_module(file)
    built, wanted = (
        _vermagic(found, elf_file)
        for found, elf_file in ((elf, file), (read_module(own[name]), own[name]))
    )
    if built != wanted:
        raise LabError(
            f"{file} was built for '{built}', the kernel is '{wanted}': build it with the headers "
            f"and the configuration of {kernel.release}"
        )
    key = digest(str(kernel.modules_dir).encode(), kernel.release.encode(), name.encode(), elf)
    folder = cache_root() / "own-modules" / key
    if not folder.is_dir():
        _lay_out(folder, kernel.modules_dir, own, name, elf)
    return KernelFiles(f"{kernel.name}@{file}", kernel.release, kernel.vmlinux, folder, mended)


def _vermagic(elf: bytes, where: Path) -> str:
    found = _VERMAGIC.search(elf) if elf.startswith(b"\x7fELF") else None
    if found is None:
        raise LabError(f"{where} is not a kernel module: give the .ko that the build made")
    return found[1].decode("ascii", "replace").strip()


def _lay_out(folder: Path, modules_dir: Path, own: dict[str, Path], name: str, elf: bytes) -> None:
    """Make the folder whole, then move it into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        others = [path for other, path in own.items() if other != name]
        for path in (*others, *modules_dir.rglob(_BUILTIN)):
            link = made / path.relative_to(modules_dir)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        (made / f"{name.replace('_', '-')}.ko").write_bytes(elf)
        made.rename(folder)
    except OSError as problem:
        # Another nestscope may have made the same folder meanwhile.
        if not folder.is_dir():
            raise LabError(f"{folder} cannot be made ({problem}): check the cache") from problem
    finally:
        shutil.rmtree(made, ignore_errors=True)
