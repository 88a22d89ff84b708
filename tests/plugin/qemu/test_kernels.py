"""Kernels out of packages into the cache, and the user's own."""

import subprocess
from pathlib import Path

import pytest

from nestscope.decoders.cache import cache_root
from nestscope.plugin.qemu import kernels
from nestscope.plugin.qemu.apt import PrivateApt
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.kernels import cached_kernel, fetch_kernel, own_kernel
from nestscope.plugin.qemu.packages import extract_kernel

from .test_modules import module

RELEASE = "6.12.9-test-64k"
VMLINUX = b"\x7fELF" + bytes(60) + b"Linux version 6.12.9-test-64k (builder@host) #1 SMP\n"

CLASSIC = {
    f"boot/vmlinux-{RELEASE}": VMLINUX,
    f"boot/config-{RELEASE}": b"CONFIG_KVM=y\n",
    f"boot/System.map-{RELEASE}": b"0 T _start\n",
    f"usr/lib/modules/{RELEASE}/kernel/arch/powerpc/kvm/kvm.ko": module(),
    f"usr/lib/modules/{RELEASE}/kernel/arch/powerpc/kvm/kvm-hv.ko": module("kvm"),
    f"usr/lib/modules/{RELEASE}/kernel/net/other.ko": module(),
    f"usr/lib/modules/{RELEASE}/modules.builtin": b"kernel/drivers/virtio/virtio.ko\n",
}


def make_package(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: ppc64el\n"
        "Maintainer: Test <test@example.org>\nDescription: test\n"
    )
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    made = folder / f"{name}_1_ppc64el.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_the_lab_needs_is_taken(tmp_path: Path) -> None:
    package = make_package(tmp_path, "linux-image-test", CLASSIC)
    out = tmp_path / "out"
    assert extract_kernel([package], out) == RELEASE
    modules = f"modules/{RELEASE}"
    assert below(out) == {
        "vmlinux",
        "config",
        f"{modules}/kernel/arch/powerpc/kvm/kvm.ko",
        f"{modules}/kernel/arch/powerpc/kvm/kvm-hv.ko",
        f"{modules}/modules.builtin",
    }
    assert (out / "vmlinux").read_bytes() == VMLINUX


def test_split_packages_with_the_kernel_below_the_modules_folder(tmp_path: Path) -> None:
    home = f"usr/lib/modules/{RELEASE}"
    binary = make_package(
        tmp_path, "linux-binary-test", {f"{home}/vmlinuz": VMLINUX, f"{home}/config": b"C\n"}
    )
    rest = {name: data for name, data in CLASSIC.items() if name.startswith("usr/")}
    modules = make_package(tmp_path, "linux-modules-test", rest)
    out = tmp_path / "out"
    assert extract_kernel([binary, modules], out) == RELEASE
    assert {"vmlinux", "config"} <= below(out)


def test_a_compressed_image_is_refused(tmp_path: Path) -> None:
    files = CLASSIC | {f"boot/vmlinux-{RELEASE}": b"\x1f\x8b compressed"}
    package = make_package(tmp_path, "linux-image-test", files)
    with pytest.raises(LabError, match="no ELF kernel image"):
        extract_kernel([package], tmp_path / "out")


def test_a_broken_package_is_refused(tmp_path: Path) -> None:
    package = make_package(tmp_path, "linux-image-test", CLASSIC)
    package.write_bytes(package.read_bytes()[:700])
    with pytest.raises(LabError, match="fetch again"):
        extract_kernel([package], tmp_path / "out")


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NESTSCOPE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "nestscope"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "nestscope"
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


@pytest.fixture
def self_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels that are no more than a banner need no profile."""
    monkeypatch.setattr(kernels, "ensure_profile", lambda *_: None)


class FakeApt:
    """A private apt root that serves one package and counts what it is asked."""

    def __init__(self, folder: Path, stale: bool) -> None:
        self.folder = folder
        self.stale = stale
        self.calls: list[str] = []

    def update(self) -> None:
        self.calls.append("update")
        self.stale = False

    def depends(self, package: str) -> list[str] | None:
        if not self.calls and not self.stale:
            return None
        if package.endswith("-64k"):
            return ["linux-image-test"]
        return ["kmod"]

    def download(self, packages: list[str]) -> list[Path]:
        self.calls.append("download")
        if self.stale:
            raise LabError("404")
        assert packages == ["linux-image-test"]
        return [make_package(self.folder, f"linux-image-test{len(self.calls)}", CLASSIC)]


@pytest.mark.usefixtures("self_described")
@pytest.mark.parametrize(
    ("stale", "calls"),
    [(False, ["update", "download"]), (True, ["download", "update", "download"])],
    ids=["no lists yet", "lists name a package that is gone"],
)
def test_fetch_updates_only_when_it_must_and_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stale: bool, calls: list[str]
) -> None:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path / "cache"))
    fake = FakeApt(tmp_path, stale)
    monkeypatch.setattr(kernels, "PrivateApt", lambda *_: fake)
    assert cached_kernel() is None
    fetched = fetch_kernel()
    assert fake.calls == calls
    assert fetched.release == RELEASE
    assert fetch_kernel() == cached_kernel() == fetched
    assert fake.calls == calls, "a complete cache asks apt for nothing"
    assert list(tmp_path.glob("*.deb")) == []


def test_an_interrupted_fetch_leaves_no_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "PrivateApt", lambda *_: FakeApt(tmp_path, False))

    def interrupted(_packages: list[Path], folder: Path) -> str:
        (folder / "vmlinux").write_bytes(VMLINUX)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "extract_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_kernel()
    assert cached_kernel() is None
    assert list((tmp_path / "cache/kernels").iterdir()) == []


def test_the_private_root_verifies_and_stays_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try:
        PrivateApt(tmp_path, "trixie", "ppc64el", lambda _: None)
    except LabError as problem:
        pytest.skip(str(problem))
    sources = (tmp_path / "sources.list").read_text()
    assert "signed-by=/usr/share/keyrings/debian-archive-keyring" in sources
    assert "trusted" not in sources
    places = [
        line.split('"')[1]
        for line in (tmp_path / "apt.conf").read_text().splitlines()
        if line.startswith("Dir::") and '"/dev/null"' not in line
    ]
    assert all(not place or place.startswith(str(tmp_path)) for place in places)


def test_own_kernel_tells_its_release(tmp_path: Path) -> None:
    image = tmp_path / "whatever"
    image.write_bytes(VMLINUX)
    kernel = own_kernel(image, tmp_path)
    assert (kernel.release, kernel.vmlinux, kernel.modules_dir) == (RELEASE, image, tmp_path)


@pytest.mark.parametrize("data", [b"", b"MZ not ELF", b"\x7fELF but no banner"])
def test_own_kernel_must_be_an_elf_kernel(tmp_path: Path, data: bytes) -> None:
    image = tmp_path / "image"
    image.write_bytes(data)
    with pytest.raises(LabError, match=r"give an (ELF|uncompressed) vmlinux"):
        own_kernel(image, tmp_path)


def test_own_modules_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is not a folder"):
        own_kernel(tmp_path / "image", tmp_path / "nothing")
