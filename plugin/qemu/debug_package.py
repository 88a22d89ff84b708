"""A profile for a kernel that says nothing of its types: made from Debian's debug package."""

import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from nestscope.decoders.kernel.files import knowledge_of_files
from nestscope.decoders.kernel.recorded import make_profile
from nestscope.decoders.kernel.shipped import keep_profile, stored_profile
from nestscope.plugin.qemu.apt import OWN_KERNEL_HINT, Say
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.packages import extract_debug

_MIB = 1 << 20
_MAX_BYTES = 2 << 30
# Of what is unpacked: vmlinux with DWARF (270 MB for 6.1) and two modules.
_UNPACKED_BYTES = 1 << 30


class Packages(Protocol):
    """What is needed of an apt root."""

    def size(self, package: str) -> int | None:
        """Return the bytes to download for `package`, or None if no list knows it."""
        ...

    def download(self, packages: list[str]) -> list[Path]:
        """Download `packages` and return the files."""
        ...


def ensure_profile(
    apt: Packages, vmlinux: Path, modules: Path, release: str, folder: Path, say: Say
) -> Path | None:
    """Store a profile of the kernel on this machine, unless none is needed.

    None is needed if the kernel's files have types (BTF) or a stored profile is of
    this build. `folder` is where the debug files are unpacked for a moment. Returns
    the profile's file, or None.

    Raises:
        LabError: if the debug package cannot be had, or there is no room for it.
        NestscopeError: if the kernel's or the debug files are damaged.
    """
    known = knowledge_of_files(vmlinux, modules)
    if known.layouts or (known.build_id and stored_profile(known.build_id)):
        return None
    package = f"linux-image-{release}-dbg"
    size = apt.size(package)
    why = f"kernel {release} says nothing of its types and no profile of it is stored"
    if size is None or size > _MAX_BYTES:
        what = "no package list has" if size is None else f"{size // _MIB} MiB are too much for"
        raise LabError(f"{why}, but {what} {package}: try again later, {OWN_KERNEL_HINT}")
    needed = size + _UNPACKED_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LabError(
            f"{why}; to make one from {package} takes {needed // _MIB} MiB for a moment, and "
            f"{folder} has {free // _MIB}: make room, or set NESTSCOPE_CACHE to another disk"
        )
    say(f"{why}: making one from {package}, {size // _MIB} MiB, once")
    try:
        files = apt.download([package])
    except LabError as problem:
        # The lists may be older than the archive.
        raise LabError(f"{why}, and {problem}; --refresh takes the newest kernel") from problem
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".debug-") as unpacked:
            for file in files:
                extract_debug(file, Path(unpacked))
            profile = make_profile(knowledge_of_files(vmlinux, modules, Path(unpacked)))
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return keep_profile(profile)
