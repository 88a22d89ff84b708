"""`NAME@FILE`: the user's own build of a module in the place of the kernel's."""

import lzma
import os
from pathlib import Path

import pytest

from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.kernels import choose_kernel
from nestscope.plugin.qemu.modules import find_modules, lab_modules
from nestscope.plugin.qemu.own_module import with_module

RELEASE = "6.99.1-test"
MAGIC = f"{RELEASE} SMP mod_unload "


def module(depends: str, *, text: str = "", magic: str = MAGIC) -> bytes:
    """What the lab looks at in a module: an ELF header, then strings of `.modinfo`."""
    strings = [f"depends={depends}", f"vermagic={magic}", f"description={text}"]
    return b"\x7fELF\x02\x01\x01" + bytes(57) + "\0".join(strings).encode() + b"\0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def kernel(tmp_path: Path) -> KernelFiles:
    folder = tmp_path / "modules"
    (folder / "kvm").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/drivers/virtio_pci.ko\n")
    (folder / "kvm" / "kvm.ko").write_bytes(module(""))
    (folder / "kvm" / "kvm-hv.ko.xz").write_bytes(lzma.compress(module("kvm", text="Debian's")))
    return KernelFiles("test", RELEASE, tmp_path / "vmlinux", folder)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    file = tmp_path / "build" / "kvm-hv.ko"
    file.parent.mkdir()
    file.write_bytes(module("kvm", text="mine"))
    return file


def test_the_lab_loads_the_users_build_and_the_other_modules_as_before(
    kernel: KernelFiles, built: Path
) -> None:
    own = with_module(kernel, built)
    loaded = dict(lab_modules(own.modules_dir))
    assert list(loaded) == ["kvm", "kvm_hv"]
    assert b"description=mine" in loaded["kvm_hv"]
    assert loaded["kvm"] == module("")
    assert (own.modules_dir / "modules.builtin").read_text().endswith("virtio_pci.ko\n")
    assert own.release == RELEASE
    assert own.vmlinux == kernel.vmlinux


def test_the_kernels_own_folder_is_left_alone(kernel: KernelFiles, built: Path) -> None:
    before = find_modules(kernel.modules_dir)
    with_module(kernel, built)
    assert find_modules(kernel.modules_dir) == before
    assert b"description=Debian's" in dict(lab_modules(kernel.modules_dir))["kvm_hv"]


def test_another_build_is_another_folder_and_the_first_stays_as_it_was(
    kernel: KernelFiles, built: Path
) -> None:
    first = with_module(kernel, built)
    assert with_module(kernel, built).modules_dir == first.modules_dir
    built.write_bytes(module("kvm", text="my second"))
    second = with_module(kernel, built)
    assert b"description=mine" in dict(lab_modules(first.modules_dir))["kvm_hv"]
    assert b"description=my second" in dict(lab_modules(second.modules_dir))["kvm_hv"]


def test_a_module_for_another_kernel_is_refused_before_anything_boots(
    kernel: KernelFiles, built: Path
) -> None:
    built.write_bytes(module("kvm", magic="6.99.2-test SMP mod_unload "))
    with pytest.raises(LabError, match=r"built for '6\.99\.2-test .* the kernel is '6\.99\.1-test"):
        with_module(kernel, built)


def test_a_name_that_the_kernel_does_not_have_is_refused(kernel: KernelFiles, built: Path) -> None:
    other = built.with_name("kvm-pr.ko")
    built.rename(other)
    with pytest.raises(LabError, match="test has no module kvm_pr: give a kvm"):
        with_module(kernel, other)


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF", b"kvm-hv.ko: PowerPC64"])
def test_what_is_no_module_is_refused(
    kernel: KernelFiles, built: Path, content: bytes | None
) -> None:
    built.unlink()
    if content is not None:
        built.write_bytes(content)
    with pytest.raises(LabError, match=r"no module|not a kernel module"):
        with_module(kernel, built)


def test_nothing_is_left_of_a_folder_that_could_not_be_made(
    kernel: KernelFiles, built: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "symlink_to", full)
    with pytest.raises(LabError, match="No space left"):
        with_module(kernel, built)
    assert list((cache / "own-modules").iterdir()) == []


def test_the_name_of_a_kernel_may_end_in_the_file(
    kernel: KernelFiles, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(name: str) -> KernelFiles:
        asked.append(name)
        return kernel

    monkeypatch.setattr("nestscope.plugin.qemu.kernels.fetch_kernel", fetch)
    monkeypatch.chdir(built.parent)
    own = choose_kernel("test@kvm-hv.ko", None, None)
    assert b"description=mine" in dict(lab_modules(own.modules_dir))["kvm_hv"]
    assert choose_kernel("test", None, None) is kernel
    assert asked == ["test", "test"]


def test_behind_the_file_come_the_findings_that_it_mends(
    kernel: KernelFiles, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nestscope.plugin.qemu.kernels.fetch_kernel", lambda _: kernel)
    assert choose_kernel(f"test@{built}", None, None).mended == frozenset()
    assert choose_kernel(f"test@{built},0001,0003", None, None).mended == {"0001", "0003"}
    with pytest.raises(LabError, match="cannot do without finding '0004': it can without 0001, "):
        choose_kernel(f"test@{built},0004", None, None)
