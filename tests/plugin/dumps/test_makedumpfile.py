"""What makedumpfile makes of a dump that we converted: every packing, split, flattened.

It is Debian's makedumpfile for ppc64el, for it takes dumps of its own architecture
only, run by qemu-user. It also shows that our conversion has all that it needs.
"""

import shutil
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from nestscope.decoders.cache import cache_root
from nestscope.decoders.state_json import to_json
from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.dumps.convert import convert
from nestscope.plugin.qemu.apt import PrivateApt
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.lab import Lab
from nestscope.plugin.target import open_target
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

EMULATOR = "qemu-ppc64le"
LIBRARIES = "libc6 libgcc-s1 libbz2-1.0 zlib1g libzstd1 libelf1t64 liblzma5 libdw1t64 liblzo2-2"

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.nightly,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which(EMULATOR) is None or shutil.which("dpkg-deb") is None,
        reason=f"there is no {EMULATOR} or dpkg-deb (Debian: qemu-user, dpkg)",
    ),
]

KINDS = {
    "zlib": ["-c"],
    "lzo": ["-l"],
    "zstd": ["-z"],
    "not packed": [],
    "lzo, nothing left out": ["-l", "-d", "0"],
}


@pytest.fixture(scope="module")
def makedumpfile(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command; its package and libraries are fetched with Debian's apt and keys."""
    root = tmp_path_factory.mktemp("ppc64el")
    apt = PrivateApt(cache_root() / "apt" / "makedumpfile", "trixie", "ppc64el", print)
    wanted = ["makedumpfile", *LIBRARIES.split()]
    try:
        apt.update()
        packages = apt.download(wanted)
    except LabError as problem:
        pytest.skip(str(problem))
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, root], check=True, timeout=120)
    for folder in ("lib", "lib64"):
        if not (root / folder).exists():
            (root / folder).symlink_to(f"usr/{folder}")
    loader = root / "usr/lib64/ld64.so.2"
    if not loader.exists():
        loader.parent.mkdir(exist_ok=True)
        loader.symlink_to("../lib/powerpc64le-linux-gnu/ld64.so.2")
    return [EMULATOR, "-L", str(root), str(root / "usr/bin/makedumpfile")]


def without_source(name: str) -> str:
    with open_target(name) as target:
        text = to_json(target.state())
    return text[text.index('"kernel"') :]


def test_every_form_of_makedumpfile_gives_the_live_state(
    clean_lab: Lab, makedumpfile: list[str], tmp_path: Path
) -> None:
    with open_comparison(clean_lab) as live:
        for operation in islice(random_operations(11, LAYOUT), 60):
            live.comparison.step(operation)
        text = to_json(live.machine.state())
        with open_target(f"ram:{clean_lab.ram_path}") as target:
            convert(target.memory, target.kernel, tmp_path / "vmcore")
    expected = text[text.index('"kernel"') :]
    source = str(tmp_path / "vmcore")
    assert without_source(source) == expected

    def run(*arguments: str, **more: object) -> None:
        subprocess.run([*makedumpfile, *arguments], check=True, timeout=300, **more)

    for name, options in KINDS.items():
        run("-d", "31", *options, source, str(tmp_path / name))
        assert without_source(str(tmp_path / name)) == expected, name
    parts = [str(tmp_path / part) for part in ("one", "two", "three")]
    run("--split", "-c", "-d", "31", source, *parts)
    assert without_source(",".join(parts)) == expected
    with (tmp_path / "flat").open("wb") as flat:
        run("-F", "-z", "-d", "31", source, stdout=flat)
    assert without_source(str(tmp_path / "flat")) == expected
    assert (tmp_path / "flat").stat().st_size < Path(source).stat().st_size / 10
