"""The plugin for QEMU that counts, and the file it counts in."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nestscope.plugin.qemu.counters import (
    HOST_COMPILER,
    Counters,
    build_counter_plugin,
    counting,
    plugin_interface,
)
from nestscope.plugin.qemu.errors import LabError

INLINE = b"\0qemu_plugin_register_vcpu_insn_exec_inline\0"
PER_VCPU = b"\0qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu\0"
CALL = b"\0qemu_plugin_register_vcpu_insn_exec_cb\0"


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if shutil.which(HOST_COMPILER) is None:
        pytest.skip(f"there is no {HOST_COMPILER}")


@pytest.mark.parametrize(
    ("names", "interface"), [(CALL + INLINE, 1), (INLINE + CALL, 1), (CALL + PER_VCPU, 2)]
)
def test_interface_is_what_the_program_offers(tmp_path: Path, names: bytes, interface: int) -> None:
    program = tmp_path / "qemu"
    program.write_bytes(b"\x7fELF" + names)
    assert plugin_interface(program) == interface


def test_the_program_behind_a_fetched_qemu_is_looked_at(tmp_path: Path) -> None:
    script = tmp_path / "qemu-system-ppc64"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(LabError, match="is a script"):
        plugin_interface(script)
    program = tmp_path / "root/usr/bin/qemu-system-ppc64"
    program.parent.mkdir(parents=True)
    program.write_bytes(b"\x7fELF" + CALL)
    assert plugin_interface(script) == 2


def test_qemu_without_plugins_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_bytes(b"\x7fELF" + PER_VCPU)
    with pytest.raises(LabError, match="without TCG plugins"):
        plugin_interface(program)


@pytest.mark.parametrize("interface", [1, 2])
def test_plugin_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interface: int
) -> None:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path))
    first = build_counter_plugin(interface)
    made = first.stat().st_mtime_ns
    assert first.read_bytes()[:4] == b"\x7fELF"
    assert build_counter_plugin(interface) == first
    assert first.stat().st_mtime_ns == made
    assert build_counter_plugin(3 - interface) != first


def test_missing_compiler_says_what_to_install() -> None:
    with pytest.raises(LabError, match="install gcc"):
        build_counter_plugin(1, compiler="no-such-gcc")


def test_arguments_name_the_files_and_make_a_counter_for_every_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path / "a,b"))
    (tmp_path / "qemu").write_bytes(INLINE)
    counters = tmp_path / "counters"
    flag, value = counting(tmp_path / "qemu", counters, tmp_path / "ram", 1 << 20)
    assert flag == "-plugin"
    # QEMU takes a doubled comma for one that is part of a name.
    assert value.startswith(f"{tmp_path}/a,,b/tcg/counter-")
    assert value.endswith(f".so,counters={counters},ram={tmp_path}/ram")
    assert counters.stat().st_size == (1 << 20) // 4 * 8


def test_counters_are_read_by_physical_address(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    np.arange(64, dtype=np.uint64).tofile(path)
    with Counters(path) as counters:
        assert counters.read(np.array([0, 4, 0xFC], np.uint64)).tolist() == [0, 1, 63]
        with pytest.raises(LabError, match="0x100 is not in the machine's RAM"):
            counters.read(np.array([0, 0x100], np.uint64))
    with pytest.raises(LabError, match="closed"):
        counters.read(np.array([0], np.uint64))


def test_machine_that_counts_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="boot it with coverage"):
        Counters(tmp_path / "counters")
