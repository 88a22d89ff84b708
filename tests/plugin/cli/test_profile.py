"""`nestscope profile make`, and `state` without any file."""

import json
from pathlib import Path

import pytest

from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.kernel.recorded import unknown_to
from nestscope.decoders.kernel.shipped import stored_profile
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from tests.decoders.kernel.elf_file import Sym, elf_file
from tests.decoders.kernel.self_told import load_kvm, self_told

from .conftest import Cli


def test_the_memory_of_a_kernel_that_describes_itself_needs_no_file(
    cli: Cli, tmp_path: Path
) -> None:
    world = self_told()
    load_kvm(world)
    image = tmp_path / "ram"
    image.write_bytes(bytes(world.physical.data))
    outcome = cli("state", image, "--json")
    assert (outcome.status, outcome.error) == (0, "")
    kernel = json.loads(outcome.output)["kernel"]
    assert kernel == {"release": "6.12.9-test-64k", "page_shift": 16}


def test_memory_without_a_kernel_says_what_to_give(cli: Cli, tmp_path: Path) -> None:
    image = tmp_path / "ram"
    image.write_bytes(bytes(1 << 20))
    outcome = cli("state", image)
    assert outcome.status == 2
    assert "no Linux kernel" in outcome.error
    assert "--vmlinux" in outcome.error
    assert outcome.error.count("\n") == 1


def test_a_file_that_is_no_profile_is_refused(cli: Cli, tmp_path: Path) -> None:
    image, wrong = tmp_path / "ram", tmp_path / "wrong.json"
    image.write_bytes(bytes(1 << 20))
    wrong.write_text("{}")
    outcome = cli("state", image, "--profile", wrong)
    assert outcome.status == 2
    assert str(wrong) in outcome.error


def test_a_kernel_without_types_makes_no_profile(cli: Cli, tmp_path: Path) -> None:
    vmlinux, output = tmp_path / "vmlinux", tmp_path / "out.json"
    text = b"Linux version 6.1.9 (a@b) #1\n\0"
    address = 0xC000_0000_0000_1000
    sections = [(".rodata", address, text)]
    vmlinux.write_bytes(elf_file(sections, [Sym("linux_banner", address, len(text))]))
    outcome = cli("profile", "make", "--vmlinux", vmlinux, "-o", output)
    assert outcome.status == 2
    assert outcome.error.count("\n") == 1
    assert not output.exists()


@pytest.mark.kernel
def test_a_profile_that_is_made_is_the_one_that_ships(
    cli: Cli, kernel_files: KernelFiles, tmp_path: Path
) -> None:
    output = tmp_path / "made.json"
    options = ["--vmlinux", kernel_files.vmlinux, "--modules", kernel_files.modules_dir]
    outcome = cli("profile", "make", *options, "-o", output)
    assert (outcome.status, outcome.error) == (0, "")
    made = Profile.open(output)
    assert made.build_id.hex() in outcome.output
    assert unknown_to(made) == []
    stored = stored_profile(made.build_id)
    if stored is not None:  # Debian may have a newer kernel than those that ship
        assert made.to_json() == stored.to_json()


@pytest.mark.kernel
def test_a_live_kernel_needs_no_file(cli: Cli, clean_lab: Lab, kernel_files: KernelFiles) -> None:
    for source in (f"ram:{clean_lab.ram_path}", f"gdb:{clean_lab.gdb_socket}"):
        outcome = cli("state", source, "--json")
        assert (outcome.status, outcome.error) == (0, "")
        document = json.loads(outcome.output)
        assert document["kernel"]["release"] == kernel_files.release
        assert document["problems"] == []
