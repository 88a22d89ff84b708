"""A QEMU for the inside: Debian's ppc64el package and the libraries that it needs.

Of the packages that apt resolves for an empty system only three things are kept: the
program, the shared libraries that it needs (directly or not), the firmware.
"""

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.apt import PrivateApt, Say, say_on_terminal
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.kernels import ARCHITECTURE

PACKAGE = "qemu-system-ppc"
RELEASE = "trixie"
PROGRAM = "qemu-system-ppc64"
LOADER = "ld64.so.2"
FIRMWARE = "vof.bin"
_UNPACK_SECONDS = 300
_LARGEST = 64 << 20


def fetch_inner_programs(say: Say = say_on_terminal) -> Path:
    """Return a folder with `qemu-system-ppc64`, its libraries, its loader and its firmware.

    Fetched now unless the cache holds it.

    Raises:
        LabError: if it cannot be fetched or is not what is expected.
    """
    final = cache_root() / "inner" / RELEASE
    if (final / "about.json").exists():
        return final
    apt = PrivateApt(cache_root() / "apt" / RELEASE, RELEASE, ARCHITECTURE, say)
    try:
        names = apt.closure([PACKAGE])
    except LabError:
        apt.update()
        names = apt.closure([PACKAGE])
    packages = apt.download(names)
    say("unpacking QEMU for the inner Linux")
    found = _needed(_members(packages))
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".new-") as made:
        folder = Path(made) / RELEASE
        folder.mkdir()
        for name, data in found.items():
            (folder / name).write_bytes(data)
        # Written last: its presence says "complete".
        about = {"packages": sorted(path.name for path in packages)}
        (folder / "about.json").write_text(json.dumps(about) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
    for path in packages:
        path.unlink(missing_ok=True)
    return final


def _members(packages: Sequence[Path]) -> dict[str, bytes]:
    """Return libraries, program and firmware of all packages, by their bare name.

    A symbolic link to a file in its own folder stands for that file.
    """
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    for package in packages:
        for member, data in _wanted(package):
            name = Path(member.name).name
            if data is None:
                links[name] = Path(member.linkname).name
            else:
                files[name] = data
    for name, target in links.items():
        if target in files:
            files.setdefault(name, files[target])
    return files


def _wanted(package: Path) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the members of one package that may be wanted, and the bytes of files."""
    try:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(package)],
            capture_output=True,
            timeout=_UNPACK_SECONDS,
            check=True,
        )
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            for member in archive:
                name = Path(member.name).name
                if ".so" not in name and name not in (PROGRAM, FIRMWARE):
                    continue
                if member.issym():
                    yield member, None
                elif member.isfile() and member.size <= _LARGEST:
                    data = archive.extractfile(member)
                    yield member, data.read() if data is not None else b""
    except (OSError, subprocess.SubprocessError, tarfile.TarError) as problem:
        raise LabError(f"{package.name} cannot be unpacked ({problem}): try again") from problem


def _needed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the program, the firmware, and the libraries that they need.

    Raises:
        LabError: if one is missing.
    """
    wanted = [PROGRAM, LOADER]
    found = {FIRMWARE: _file(files, FIRMWARE)}
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = _file(files, name)
            wanted += _libraries(found[name], name)
    return found


def _file(files: dict[str, bytes], name: str) -> bytes:
    try:
        return files[name]
    except KeyError:
        raise LabError(f"the packages of {PACKAGE} have no {name}: use another release") from None


def _libraries(data: bytes, name: str) -> list[str]:
    """Return the DT_NEEDED entries of an ELF file."""
    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".dynamic")
        if not isinstance(section, DynamicSection):
            return []
        return [str(getattr(tag, "needed", "")) for tag in section.iter_tags("DT_NEEDED")]
    except ELFError as problem:
        raise LabError(f"{name} of {PACKAGE} is no ELF file ({problem})") from problem
