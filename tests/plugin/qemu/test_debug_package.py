"""A kernel without types gets a profile, made once from its debug package."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from nestscope.decoders.kernel.shipped import own_profiles
from nestscope.plugin.qemu import debug_package
from nestscope.plugin.qemu.debug_package import ensure_profile
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel
from tests.decoders.kernel.elf_file import Sym, build_id_note, elf_file

from .test_kernels import make_package

RELEASE = "6.1.0-99-test"
BANNER = b"Linux version 6.1.0-99-test (builder@host) #1 SMP\n\0"
AT = 0xC000_0000_0000_1000
Usage = namedtuple("Usage", "total used free")


class FakeApt:
    """Serves the debug package of `RELEASE`, if there is one."""

    def __init__(self, package: Path | None, size: int | None = 1000) -> None:
        self.package = package
        self._size = size
        self.asked: list[str] = []

    def size(self, package: str) -> int | None:
        self.asked.append(package)
        return self._size

    def download(self, packages: list[str]) -> list[Path]:
        if self.package is None:
            raise LabError("apt could not download it (404)")
        assert packages == [f"linux-image-{RELEASE}-dbg"]
        return [self.package]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("NESTSCOPE_CACHE", str(folder))
    return folder


@pytest.fixture
def vmlinux(tmp_path: Path) -> Path:
    """A kernel with a banner and a build id, and without types."""
    sections = [(".rodata", AT, BANNER), (".notes", AT + 0x1000, build_id_note(b"i" * 20, "<"))]
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_file(sections, [Sym("linux_banner", AT, len(BANNER))]))
    return path


def ensure(apt: FakeApt, vmlinux: Path, cache: Path, said: list[str] | None = None) -> Path | None:
    say = (said if said is not None else []).append
    return ensure_profile(apt, vmlinux, vmlinux.parent / "none", RELEASE, cache, say)


def test_a_list_without_the_package_is_told(vmlinux: Path, cache: Path) -> None:
    apt = FakeApt(None, size=None)
    with pytest.raises(LabError, match=rf"{RELEASE} says nothing of its types.*no package list"):
        ensure(apt, vmlinux, cache)
    assert apt.asked == [f"linux-image-{RELEASE}-dbg"]


def test_a_package_beyond_all_measure_is_not_downloaded(vmlinux: Path, cache: Path) -> None:
    with pytest.raises(LabError, match="4096 MiB are too much"):
        ensure(FakeApt(None, size=4 << 30), vmlinux, cache)


def test_a_full_disk_is_told_before_anything_is_downloaded(
    vmlinux: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 1 << 40, 5 << 20))
    with pytest.raises(LabError, match=rf"takes 1724 MiB.*{cache} has 5.*NESTSCOPE_CACHE"):
        ensure(FakeApt(None, size=700 << 20), vmlinux, cache)


def test_a_package_that_is_gone_leads_to_the_newest_kernel(vmlinux: Path, cache: Path) -> None:
    with pytest.raises(LabError, match=r"404.*--refresh"):
        ensure(FakeApt(None), vmlinux, cache)


def test_of_the_package_only_what_a_profile_needs_is_unpacked_and_nothing_stays(
    vmlinux: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = "usr/lib/debug"
    package = make_package(
        tmp_path,
        "linux-image-dbg",
        {
            f"{below}/boot/vmlinux-{RELEASE}": b"\x7fELF vmlinux",
            f"{below}/lib/modules/{RELEASE}/kernel/arch/powerpc/kvm/kvm-hv.ko": b"\x7fELF hv",
            f"{below}/lib/modules/{RELEASE}/kernel/net/other.ko": b"\x7fELF other",
            f"boot/vmlinux-{RELEASE}": b"\x7fELF the kernel itself",
        },
    )
    seen: dict[str, bytes] = {}

    def knowledge(*folders: Path) -> object:
        if len(folders) == 2:
            return known(*folders)
        seen.update({path.name: path.read_bytes() for path in folders[2].iterdir()})
        raise KeyboardInterrupt

    known = debug_package.knowledge_of_files
    monkeypatch.setattr(debug_package, "knowledge_of_files", knowledge)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        ensure(FakeApt(package), vmlinux, cache, said)
    assert seen == {f"vmlinux-{RELEASE}": b"\x7fELF vmlinux", "kvm-hv.ko": b"\x7fELF hv"}
    assert list(cache.iterdir()) == []
    assert not package.exists()
    assert len(said) == 1


@pytest.mark.kernel
@pytest.mark.parametrize("name", FLAVOURS)
def test_kernels_with_types_or_with_a_stored_profile_need_no_package(name: str) -> None:
    try:
        files = fetch_kernel(name)
    except LabError as problem:
        pytest.skip(str(problem))
    before = own_profiles()
    apt = FakeApt(None)
    done = ensure_profile(apt, files.vmlinux, files.modules_dir, files.release, Path(), print)
    assert done is None
    assert apt.asked == []
    assert own_profiles() == before
