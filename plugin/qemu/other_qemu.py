"""Another QEMU than the machine's: Debian's packages of a suite, unpacked into the cache.

It runs with its own loader and libraries, so that it may be newer than the system. No
root is needed, and nothing of the system is changed.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu.apt import PrivateApt, Say, say_on_terminal
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.flavours import SUITE

PACKAGE = "qemu-system-ppc"
PROGRAM = "qemu-system-ppc64"
_UNPACK_SECONDS = 300
_SCRIPT = """#!/bin/sh
# {packages} packages of Debian's suite {suite}
root='{root}'
QEMU_MODULE_DIR="$root/usr/lib/{triplet}/qemu"
export QEMU_MODULE_DIR
exec "$root/{loader}" --library-path "{libraries}" \\
    "$root/usr/bin/{program}" -L "$root/usr/share/qemu" "$@"
"""


def fetch_qemu(suite: str, *, refresh: bool = False, say: Say = say_on_terminal) -> Path:
    """Return a script that runs the QEMU of a suite of Debian, fetched unless it is here.

    Raises:
        LabError: if there is no such suite, or it cannot be fetched or unpacked.
    """
    if not SUITE.fullmatch(suite):
        raise LabError(f"'{suite}' is no suite of Debian: give one such as trixie")
    final = cache_root() / "qemu" / suite
    program = final / PROGRAM
    if program.exists() and not refresh:
        return program
    architecture = _said("dpkg", "--print-architecture")
    apt = PrivateApt(cache_root() / "apt" / f"{suite}-{architecture}", suite, architecture, say)
    apt.update()
    packages = apt.download(apt.closure([PACKAGE]))
    say(f"unpacking QEMU of {suite}")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".new-") as made:
        folder = Path(made) / suite
        root = folder / "root"
        root.mkdir(parents=True)
        for package in packages:
            _said("dpkg-deb", "--extract", str(package), str(root))
        about = {"packages": sorted(path.name for path in packages)}
        (folder / "about.json").write_text(json.dumps(about) + "\n")
        # Written last: its presence says "complete".
        script = folder / PROGRAM
        script.write_text(_script(root, final / "root", suite, len(packages)))
        script.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
    for path in packages:
        path.unlink(missing_ok=True)
    return program


def program_of(qemu: Path) -> Path:
    """Return the ELF program behind a script of `fetch_qemu`; any other file as it is."""
    behind = qemu.parent / "root/usr/bin" / PROGRAM
    return behind if behind.exists() else qemu


def _script(root: Path, later: Path, suite: str, packages: int) -> str:
    """Return the script that runs what was unpacked to `root` and will be at `later`.

    Raises:
        LabError: if program, C library or loader are not there.
    """
    libc = next(iter(sorted(root.glob("**/libc.so.6"))), None)
    loader = next(
        iter(sorted(root.glob("**/ld-linux*.so.*")) + sorted(root.glob("**/ld64*"))), None
    )
    if libc is None or loader is None or not (root / "usr/bin" / PROGRAM).exists():
        raise LabError(f"the packages of {PACKAGE} in {suite} hold no {PROGRAM}: use another suite")
    triplet = libc.parent.name
    folders = [later / below / triplet for below in ("usr/lib", "lib")]
    # Some packages keep theirs one level below (blas, pulseaudio).
    deeper = {path.parent for path in (root / "usr/lib" / triplet).glob("*/*.so.*")}
    folders += [later / path.relative_to(root) for path in sorted(deeper)]
    return _SCRIPT.format(
        packages=packages,
        suite=suite,
        root=later,
        triplet=triplet,
        loader=loader.relative_to(root),
        libraries=":".join(map(str, folders)),
        program=PROGRAM,
    )


def _said(*command: str) -> str:
    """Run a command of dpkg and return what it printed.

    Raises:
        LabError: if it fails.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_UNPACK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise LabError(f"{command[0]} cannot be run ({problem}): use a Debian") from problem
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise LabError(f"{' '.join(command[:2])} failed ({why[0]}): try again")
    return done.stdout.strip()
