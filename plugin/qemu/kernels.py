"""Kernels for the lab: fetched from Debian by name, or the user's own."""

import contextlib
import fcntl
import json
import mmap
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.apt import OWN_KERNEL_HINT, PrivateApt, Say, say_on_terminal
from nestscope.plugin.qemu.debug_package import ensure_profile
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.flavours import DEFAULT_KERNEL, FLAVOURS, Flavour, flavour
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.own_module import parse_own, with_module
from nestscope.plugin.qemu.packages import extract_kernel

__all__ = [
    "DEFAULT_KERNEL",
    "FLAVOURS",
    "cached_kernel",
    "cached_names",
    "choose_kernel",
    "fetch_kernel",
    "kernel_packages",
    "own_kernel",
]

ARCHITECTURE = "ppc64el"
_LOCK_SECONDS = 1800.0
_BANNER = re.compile(rb"Linux version ([0-9][\w.+~-]{2,100}) ")
# Packages of the same source that hold the kernel; everything else a kernel
# depends on (initramfs-tools, kmod, ...) is for an installed system.
_KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules)-\S+")
_BUILD = re.compile(r"linux-image-[0-9]")
_MAX_PACKAGES = 12


def _folder(name: str) -> Path:
    return cache_root() / "kernels" / name


def cached_kernel(name: str = DEFAULT_KERNEL) -> KernelFiles | None:
    """Return kernel `name` if the cache holds it whole; nothing is run or fetched.

    Raises:
        LabError: if there is no such name.
    """
    folder = _folder(flavour(name).name)
    try:
        # Written last and moved into place with the rest: its presence says "complete".
        release = str(json.loads((folder / "kernel.json").read_text())["release"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return KernelFiles(name, release, folder / "vmlinux", folder / "modules" / release)


def cached_names() -> list[str]:
    """Return the names of `FLAVOURS`, then those of other kernels that the cache holds."""
    folders = sorted(path.parent.name for path in (cache_root() / "kernels").glob("*/kernel.json"))
    return [*FLAVOURS, *(name for name in folders if name not in FLAVOURS)]


@contextlib.contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock file `path`; another nestscope may be fetching the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = time.monotonic() + _LOCK_SECONDS
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > limit:
                    raise LabError(
                        f"another process holds {path} for too long: end it, then try again"
                    ) from None
                say("waiting for another nestscope that is fetching")
                time.sleep(1.0)
        yield


class PackageLists(Protocol):
    """What resolving needs of an apt root."""

    def depends(self, package: str) -> list[str] | None:
        """Return the direct dependencies of `package`, or None if it is not known."""
        ...


def kernel_packages(apt: PackageLists, package: str) -> list[str] | None:
    """Return the packages that hold the kernel that `package` leads to, or None.

    Followed are `Depends` on linux-image, linux-binary and linux-modules packages.
    A package that names a build is one of them; a metapackage holds nothing.
    """
    found = [package] if _BUILD.match(package) else []
    waiting = [package]
    while waiting and len(found) <= _MAX_PACKAGES:
        depends = apt.depends(waiting.pop(0))
        if depends is None:
            return None
        new = [name for name in depends if _KERNEL_PACKAGE.fullmatch(name) and name not in found]
        found += new
        waiting += new
    return found or None


def _download(apt: PrivateApt, wanted: Flavour) -> list[Path]:
    """Resolve and download, with the lists at hand first and with fresh ones after that."""
    packages = kernel_packages(apt, wanted.package)
    if packages is not None:
        with contextlib.suppress(LabError):
            # A package that the lists name may have been superseded since.
            return apt.download(packages)
    apt.update()
    packages = kernel_packages(apt, wanted.package)
    if packages is None:
        raise LabError(
            f"no package list of {wanted.release} has {wanted.package}: see apt's warnings "
            f"above and try again, {OWN_KERNEL_HINT}"
        )
    return apt.download(packages)


def fetch_kernel(
    name: str = DEFAULT_KERNEL, *, refresh: bool = False, say: Say = say_on_terminal
) -> KernelFiles:
    """Return kernel `name`, fetched now unless the cache holds it.

    `refresh` fetches the newest one in any case.

    Raises:
        LabError: if it cannot be fetched.
    """
    wanted = flavour(name)
    kernel = cached_kernel(name)
    if kernel is not None and not refresh:
        return kernel
    root = cache_root() / "apt" / wanted.release
    with _locked(root / "lock", say):
        kernel = cached_kernel(name)
        if kernel is not None and not refresh:
            return kernel
        apt = PrivateApt(root, wanted.release, ARCHITECTURE, say)
        if refresh:
            apt.update()
        files = _download(apt, wanted)
        say(f"unpacking kernel {name}")
        final = _folder(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".new-") as made:
            folder = Path(made) / name
            folder.mkdir()
            release = extract_kernel(files, folder)
            modules = folder / "modules" / release
            ensure_profile(apt, folder / "vmlinux", modules, release, final.parent, say)
            about = {"release": release, "packages": [path.name for path in files]}
            (folder / "kernel.json").write_text(json.dumps(about) + "\n")
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
        for path in files:
            path.unlink(missing_ok=True)
    kernel = cached_kernel(name)
    if kernel is None:
        raise LabError(f"the cache {final} cannot be read back: check its permissions")
    return kernel


def own_kernel(vmlinux: Path, modules: Path) -> KernelFiles:
    """Return the user's own kernel: any ELF image, and a folder with kvm and kvm-hv below.

    Raises:
        LabError: if the image is not an ELF kernel or the folder does not exist.
    """
    if not modules.is_dir():
        raise LabError(f"{modules} is not a folder: give the kernel's modules with --modules")
    try:
        with vmlinux.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            banner = _BANNER.search(data) if data[:4] == b"\x7fELF" else None
            release = banner[1].decode() if banner else None
    except (OSError, ValueError) as problem:
        raise LabError(f"{vmlinux} cannot be read ({problem}): give an ELF vmlinux") from problem
    if release is None:
        raise LabError(f"{vmlinux} is not an ELF kernel image: give an uncompressed vmlinux")
    return KernelFiles(vmlinux.name, release, vmlinux, modules)


def choose_kernel(name: str, vmlinux: Path | None, modules: Path | None) -> KernelFiles:
    """Return the user's own kernel if one is given, else kernel `name`, fetched if need be.

    `NAME@FILE[,NUMBER...]` is kernel NAME with the module FILE in the place of its own one,
    and without the findings of these numbers (`own_module`).

    Raises:
        LabError: if it cannot be had, or only half of an own kernel is given.
    """
    if vmlinux is None and modules is None:
        name, _, module = name.partition("@")
        kernel = fetch_kernel(name)
        return with_module(kernel, *parse_own(module)) if module else kernel
    if vmlinux is None or modules is None:
        raise LabError("your own kernel needs both --vmlinux FILE and --modules DIR")
    return own_kernel(vmlinux, modules)
