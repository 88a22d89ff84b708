"""Kernel modules on disk: find them below a folder, unpack them, order them for loading."""

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePath

from nestscope.plugin.qemu.errors import LabError

_REQUIRED = ("kvm", "kvm_hv")
# The agent's channel. Some kernels have it built in: then there is no module to take.
_CHANNEL = ("virtio_pci", "virtio_console")
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz", ".ko.bz2")
# Every module has this string in .modinfo (scripts/mod/modpost.c), empty or not.
_DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")
_MODULE_LIMIT = 64 << 20
_UNPACK_SECONDS = 60


def module_name(path: PurePath) -> str:
    """Return the module's name as the kernel prints it: no suffix, '-' as '_'."""
    return path.name.split(".ko")[0].replace("-", "_")


def find_modules(folder: Path) -> dict[str, Path]:
    """Return `{name: file}` of all modules below `folder`."""
    return {
        module_name(path): path
        for path in sorted(folder.rglob("*.ko*"))
        if path.name.endswith(_SUFFIXES) and path.is_file()
    }


def _unzstd(packed: bytes) -> bytes:
    tool = shutil.which("zstd")
    if tool is None:
        raise LabError("a module is packed with zstd and there is no zstd: install zstd")
    done = subprocess.run(
        [tool, "-dc"], input=packed, capture_output=True, timeout=_UNPACK_SECONDS, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip())
    return done.stdout


def _bounded(stream: gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File) -> bytes:
    data = stream.read(_MODULE_LIMIT + 1)
    if len(data) > _MODULE_LIMIT:
        raise OSError(f"it unpacks to more than {_MODULE_LIMIT >> 20} MiB")
    return data


def read_module(path: Path) -> bytes:
    """Return the module's ELF file, unpacked.

    Raises:
        LabError: if it cannot be read or unpacked.
    """
    try:
        packed = path.read_bytes()
        match path.suffix:
            case ".xz":
                return _bounded(lzma.LZMAFile(io.BytesIO(packed)))
            case ".gz":
                return _bounded(gzip.GzipFile(fileobj=io.BytesIO(packed)))
            case ".bz2":
                return _bounded(bz2.BZ2File(io.BytesIO(packed)))
            case ".zst":
                return _unzstd(packed)
            case _:
                return packed
    except (OSError, EOFError, lzma.LZMAError, subprocess.TimeoutExpired) as problem:
        raise LabError(
            f"module {path} cannot be unpacked ({problem}): fetch the kernel again"
        ) from problem


def module_depends(elf: bytes, where: Path) -> list[str]:
    """Return the names that the module's `.modinfo` says it depends on.

    The package has no modules.dep (depmod makes it on installation), so the
    module itself is asked.

    Raises:
        LabError: if it is not a module.
    """
    found = _DEPENDS.search(elf) if elf.startswith(b"\x7fELF") else None
    if found is None:
        raise LabError(f"{where} is not a kernel module: give the right --modules folder")
    names = found[1].decode("ascii").replace("-", "_").split(",")
    return [name for name in names if name]


def load_order(folder: Path, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return `(name, ELF file)` of `wanted` and all they depend on, in loading order.

    A wanted module that is built into the kernel (`modules.builtin`) is left out.

    Raises:
        LabError: if one is missing.
    """
    files = find_modules(folder)
    builtin = {
        module_name(Path(line))
        for index in folder.rglob("modules.builtin")
        for line in index.read_text().splitlines()
    }
    order: dict[str, bytes] = {}
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in order or name in visiting or name in builtin:
            return
        visiting.add(name)
        if name not in files:
            raise LabError(f"module {name} is not below {folder}: give the right --modules folder")
        elf = read_module(files[name])
        for other in module_depends(elf, files[name]):
            visit(other)
        order[name] = elf

    for name in wanted:
        visit(name.replace("-", "_"))
    return list(order.items())


def lab_modules(folder: Path) -> list[tuple[str, bytes]]:
    """Return the modules that the lab loads from below `folder`, as `load_order` does."""
    present = find_modules(folder)
    channel = [name for name in _CHANNEL if name in present]
    return load_order(folder, [*channel, *_REQUIRED])
