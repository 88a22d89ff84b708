"""Take a kernel out of its Debian packages: vmlinux, config and the modules that we load."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.modules import lab_modules, module_name

_UNPACK_SECONDS = 300
_ELF = b"\x7fELF"
_DEBUG_MODULES = ("kvm", "kvm_hv")


def _modules_release(path: PurePosixPath) -> str | None:
    """Return R if the member lies below `[usr/]lib/modules/R/`."""
    parts = path.parts
    for start in (("lib", "modules"), ("usr", "lib", "modules")):
        if parts[: len(start)] == start and len(parts) > len(start) + 1:
            return parts[len(start)]
    return None


def _target(name: str) -> str | None:
    """Return where a package's member goes below the kernel's folder, or None if not wanted.

    Newer releases keep the kernel image and its config below the modules folder.
    """
    path = PurePosixPath(name.removeprefix("./"))
    release = _modules_release(path)
    if release is None and path.parent != PurePosixPath("boot"):
        return None
    if path.name.startswith(("vmlinux", "vmlinuz")):
        return "vmlinux"
    if path.name == "config" or path.name.startswith("config-"):
        return "config"
    if release is not None and (".ko" in path.name or path.name == "modules.builtin"):
        inside = PurePosixPath(*path.parts[path.parts.index(release) + 1 :])
        return f"modules/{release}/{inside}"
    return None


def _debug_target(name: str) -> str | None:
    """Return where a debug package's member goes, or None if it is of no use to a profile."""
    path = PurePosixPath(name.removeprefix("./"))
    wanted = path.name.startswith("vmlinux-") or module_name(path) in _DEBUG_MODULES
    return path.name if wanted and path.parts[:3] == ("usr", "lib", "debug") else None


def _unpack(package: Path, folder: Path, wanted: Callable[[str], str | None] = _target) -> None:
    """Stream the wanted members of one package into `folder`."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as unpacker:
        assert unpacker.stdout is not None
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
                for member in archive:
                    target = wanted(member.name) if member.isfile() else None
                    data = archive.extractfile(member) if target else None
                    if target is None or data is None:
                        continue
                    first = data.read(4)
                    if target == "vmlinux" and first != _ELF:
                        continue  # a compressed image: the lab and the symbols need the ELF file
                    path = folder / target
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as out:
                        out.write(first)
                        shutil.copyfileobj(data, out, 1 << 20)
            status = unpacker.wait(_UNPACK_SECONDS)
        except (tarfile.TarError, OSError, subprocess.TimeoutExpired) as problem:
            unpacker.kill()
            raise LabError(
                f"{package.name} cannot be unpacked ({problem}): fetch again"
            ) from problem
        except BaseException:
            unpacker.kill()
            raise
    if status:
        raise LabError(f"dpkg-deb could not read {package.name}: fetch again")


def extract_debug(package: Path, folder: Path) -> None:
    """Put the debug files of vmlinux and of the KVM modules into `folder`.

    Raises:
        LabError: if the package cannot be read.
    """
    _unpack(package, folder, _debug_target)


def extract_kernel(packages: Sequence[Path], folder: Path) -> str:
    """Put `vmlinux`, `config` and `modules/RELEASE/...` of `packages` into `folder`.

    Only the modules that the lab loads stay. Returns the kernel's release.

    Raises:
        LabError: if the packages hold no ELF kernel or no KVM modules.
    """
    if shutil.which("dpkg-deb") is None:
        raise LabError("this machine has no dpkg-deb to unpack packages: install dpkg")
    for package in packages:
        _unpack(package, folder)
    names = ", ".join(package.name for package in packages)
    if not (folder / "vmlinux").exists():
        raise LabError(f"{names} hold no ELF kernel image: give one with --vmlinux")
    releases = sorted(path.name for path in (folder / "modules").glob("*"))
    if len(releases) != 1:
        raise LabError(f"{names} hold modules of {len(releases)} kernels: give --modules")
    modules = folder / "modules" / releases[0]
    keep = {name for name, _ in lab_modules(modules)}
    for path in modules.rglob("*.ko*"):
        if module_name(path) not in keep:
            path.unlink()
    for path in sorted(modules.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return releases[0]
