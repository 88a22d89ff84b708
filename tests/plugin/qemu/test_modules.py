"""Kernel modules: found below a folder, unpacked, ordered for loading."""

import gzip
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.modules import (
    find_modules,
    lab_modules,
    load_order,
    module_depends,
    module_name,
    read_module,
)


def module(depends: str = "") -> bytes:
    """Return a small ELF64 file whose only section is `.modinfo`."""
    modinfo = b"license=GPL\0depends=" + depends.encode() + b"\0name=x\0"
    names = b"\0.modinfo\0.shstrtab\0"
    at_info, at_names = 64, 64 + len(modinfo)
    at_table = at_names + len(names)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 1, 21, 1, 0, 0, at_table, 2, 64, 0, 0, 64, 3, 2
    )
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, at_info, len(modinfo), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at_names, len(names), 0, 0, 1, 0)
    return header + modinfo + names + sections


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kvm = tmp_path / "kernel/arch/powerpc/kvm"
    kvm.mkdir(parents=True)
    (kvm / "kvm.ko.xz").write_bytes(lzma.compress(module("irqbypass")))
    (kvm / "kvm-hv.ko.gz").write_bytes(gzip.compress(module("kvm")))
    (tmp_path / "irqbypass.ko").write_bytes(module())
    (tmp_path / "modules.order").write_text("kernel/arch/powerpc/kvm/kvm.ko\n")
    return tmp_path


def test_names_are_the_kernels() -> None:
    assert module_name(Path("a/kvm-hv.ko.xz")) == "kvm_hv"


def test_all_packings_are_found(folder: Path) -> None:
    assert set(find_modules(folder)) == {"kvm", "kvm_hv", "irqbypass"}


def test_a_module_comes_after_what_it_depends_on(folder: Path) -> None:
    assert [name for name, _ in load_order(folder, ["kvm-hv"])] == ["irqbypass", "kvm", "kvm_hv"]


def test_builtin_modules_are_left_out(folder: Path) -> None:
    (folder / "irqbypass.ko").unlink()
    (folder / "modules.builtin").write_text("kernel/virt/lib/irqbypass.ko\n")
    assert [name for name, _ in load_order(folder, ["kvm-hv"])] == ["kvm", "kvm_hv"]


def test_the_channels_driver_is_loaded_first_where_it_is_a_module(folder: Path) -> None:
    (folder / "virtio_console.ko").write_bytes(module())
    assert next(iter(lab_modules(folder)))[0] == "virtio_console"


def test_a_missing_module_is_named(folder: Path) -> None:
    (folder / "irqbypass.ko").unlink()
    with pytest.raises(LabError, match="module irqbypass is not below"):
        load_order(folder, ["kvm-hv"])


def test_a_dependency_cycle_ends(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(module("b"))
    (tmp_path / "b.ko").write_bytes(module("a"))
    assert {name for name, _ in load_order(tmp_path, ["a"])} == {"a", "b"}


def test_zstd_is_unpacked(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd to pack with: install zstd")
    packed = subprocess.run(["zstd", "-c"], input=module("kvm"), capture_output=True, check=True)
    path = tmp_path / "kvm-hv.ko.zst"
    path.write_bytes(packed.stdout)
    assert read_module(path) == module("kvm")


@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2", "zst"])
@pytest.mark.parametrize("data", [b"", b"garbage", lzma.compress(module())[:-9]])
def test_a_broken_file_is_a_lab_error(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"kvm.ko.{suffix}"
    path.write_bytes(data)
    with pytest.raises(LabError):
        module_depends(read_module(path), path)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_are_a_module_or_a_lab_error(noise: bytes, at: int) -> None:
    elf = bytearray(module("kvm"))
    elf[at : at + len(noise)] = noise
    try:
        assert isinstance(module_depends(bytes(elf), Path("x.ko")), list)
    except LabError:
        return
