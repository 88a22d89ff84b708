"""Another release's QEMU, unpacked beside the system's, runs with its own libraries."""

import os
import subprocess
from pathlib import Path

import pytest

from nestscope.plugin.qemu import other_qemu
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.other_qemu import fetch_qemu

from .test_kernels import make_package

ECHO = b'#!/bin/sh\necho loader "$@"; echo modules $QEMU_MODULE_DIR\n'
TRIPLET = "x86_64-linux-gnu"


class FakeApt:
    """Serves packages of a program and a C library; the loader prints how it is called."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.folder = folder
        self.files = files
        self.calls = 0

    def __call__(self, *_: object) -> "FakeApt":
        return self

    def update(self) -> None:
        self.calls += 1

    def closure(self, packages: list[str]) -> list[str]:
        return ["libc6", *packages]

    def download(self, packages: list[str]) -> list[Path]:
        assert packages == ["libc6", "qemu-system-ppc"]
        return [make_package(self.folder, f"qemu{self.calls}", self.files)]


FILES = {
    f"usr/lib/{TRIPLET}/ld-linux-x86-64.so.2": ECHO,
    f"usr/lib/{TRIPLET}/libc.so.6": b"c",
    f"usr/lib/{TRIPLET}/blas/libblas.so.3": b"blas",
    "usr/bin/qemu-system-ppc64": b"qemu",
}


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApt:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path / "cache"))
    fake = FakeApt(tmp_path, dict(FILES))
    monkeypatch.setattr(other_qemu, "PrivateApt", fake)
    return fake


def test_the_script_calls_the_loader_with_the_libraries_of_the_suite(apt: FakeApt) -> None:
    program = fetch_qemu("trixie", say=lambda _: None)
    root = program.parent / "root"
    (root / f"usr/lib/{TRIPLET}/ld-linux-x86-64.so.2").chmod(0o755)
    out = subprocess.run(
        [program, "-M", "a b"], capture_output=True, text=True, check=True, timeout=10
    ).stdout.splitlines()
    libraries = f"{root}/usr/lib/{TRIPLET}:{root}/lib/{TRIPLET}:{root}/usr/lib/{TRIPLET}/blas"
    assert out == [
        f"loader --library-path {libraries} {root}/usr/bin/qemu-system-ppc64 "
        f"-L {root}/usr/share/qemu -M a b",
        f"modules {root}/usr/lib/{TRIPLET}/qemu",
    ]


def test_it_is_fetched_once_and_again_if_asked(apt: FakeApt, tmp_path: Path) -> None:
    program = fetch_qemu("trixie", say=lambda _: None)
    assert fetch_qemu("trixie", say=lambda _: None) == program
    assert apt.calls == 1
    fetch_qemu("trixie", refresh=True, say=lambda _: None)
    assert apt.calls == 2
    assert os.access(program, os.X_OK)
    assert list(tmp_path.glob("*.deb")) == []
    assert [path.name for path in program.parent.parent.iterdir()] == ["trixie"]


def test_packages_without_the_program_are_refused_and_leave_nothing(
    apt: FakeApt, tmp_path: Path
) -> None:
    del apt.files["usr/bin/qemu-system-ppc64"]
    with pytest.raises(LabError, match="in trixie hold no qemu-system-ppc64"):
        fetch_qemu("trixie", say=lambda _: None)
    assert list((tmp_path / "cache/qemu").iterdir()) == []


@pytest.mark.parametrize("suite", ["", "../x", "Trixie", "trixie:1"])
def test_what_is_no_suite_is_refused(suite: str) -> None:
    with pytest.raises(LabError, match="is no suite of Debian"):
        fetch_qemu(suite)
