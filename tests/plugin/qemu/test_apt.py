"""What apt prints, and which packages lead to a kernel."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from nestscope.plugin.qemu import apt as apt_module
from nestscope.plugin.qemu.apt import (
    complaints,
    machine_release,
    parse_depends,
    parse_shell,
    parse_uris,
    system_sources,
)
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel, kernel_packages

METAPACKAGE = "linux-image-powerpc64le-64k"
META = """\
linux-image-powerpc64le-64k
  Depends: linux-image-6.12.107+deb13-powerpc64le-64k
"""
IMAGE = """\
linux-image-6.12.107+deb13-powerpc64le-64k
  PreDepends: linux-base
  Depends: kmod
 |Depends: initramfs-tools
  Depends: <linux-initramfs-tool>
    dracut
    initramfs-tools
  Recommends: apparmor
  Suggests: linux-doc-6.12
  Breaks: initramfs-tools
"""
SPLIT = """\
linux-image-7.1.3-powerpc64le-64k
  Depends: kmod
  Depends: linux-binary-7.1.3-powerpc64le-64k
  Depends: linux-modules-7.1.3-powerpc64le-64k
"""


class Lists:
    """Stands for the private apt root: what `apt-cache depends` prints for each package."""

    def __init__(self, outputs: Mapping[str, str]) -> None:
        self.outputs = outputs

    def depends(self, package: str) -> list[str] | None:
        text = self.outputs.get(package)
        return None if text is None else parse_depends(text)


def resolve(outputs: Mapping[str, str], metapackage: str) -> list[str] | None:
    return kernel_packages(Lists(outputs), metapackage)


def test_depends_lists_real_packages_once() -> None:
    assert parse_depends(IMAGE) == ["linux-base", "kmod", "initramfs-tools"]


def test_metapackage_leads_to_the_image() -> None:
    image = "linux-image-6.12.107+deb13-powerpc64le-64k"
    assert resolve({METAPACKAGE: META, image: IMAGE}, METAPACKAGE) == [image]


def test_split_packages_are_followed() -> None:
    image = "linux-image-7.1.3-powerpc64le-64k"
    binary, modules = image.replace("image", "binary"), image.replace("image", "modules")
    outputs = {
        METAPACKAGE: META.replace("linux-image-6.12.107+deb13-powerpc64le-64k", image),
        image: SPLIT,
        binary: f"{binary}\n  Depends: {modules}\n",
        modules: f"{modules}\n  Depends: {binary}\n",
    }
    assert resolve(outputs, METAPACKAGE) == [image, binary, modules]


def test_a_package_that_names_a_build_is_one_of_them() -> None:
    image = "linux-image-6.12.107+deb13-powerpc64le-64k"
    assert resolve({image: IMAGE}, image) == [image]


def test_a_metapackage_that_no_list_knows_is_none() -> None:
    assert resolve({}, METAPACKAGE) is None


def test_apt_config_shell_output() -> None:
    text = "L='/etc/apt/sources.list'\nP='/etc/apt/sources.list.d/'\n"
    assert parse_shell(text) == {"L": "/etc/apt/sources.list", "P": "/etc/apt/sources.list.d/"}


def test_complaints_are_errors_and_warnings_once() -> None:
    text = "Hit:1 x\nW: one\nE: two  Mirror sync in progress?\nE: two  Mirror sync in progress?\n"
    assert complaints(text) == ["W: one", "E: two  Mirror sync in progress?"]


def test_print_uris_gives_uri_file_and_hash() -> None:
    text = (
        "'http://a.example/pool/l/linux%2bx_1.deb' linux+x_1.deb 78839144 SHA256:dcd4\n"
        "something else\n"
    )
    assert parse_uris(text) == [
        ("http://a.example/pool/l/linux%2bx_1.deb", "linux+x_1.deb", "SHA256:dcd4")
    ]


def test_a_command_that_does_not_end_is_ended_with_its_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(apt_module, "_END_SECONDS", 0.2)
    note = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {note}; wait"
    with pytest.raises(LabError, match="did not end within 1 s"):
        apt_module._execute(["/bin/sh", "-c", script], 1)
    assert not Path(f"/proc/{note.read_text().strip()}/fd/1").exists()


@pytest.mark.parametrize(
    ("text", "codename"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID="12"\n', "bookworm"),
        ('VERSION_CODENAME="trixie"\n', "trixie"),
        ("ID=arch\n", ""),
    ],
)
def test_codename_of_the_machine(text: str, codename: str) -> None:
    assert machine_release(text) == codename


def test_a_machine_without_apt_is_told_to_bring_a_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"no apt-config.*--vmlinux and --modules"):
        system_sources("trixie")


def test_a_machine_without_a_debian_archive_is_told_to_bring_a_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apt_module, "_execute", lambda *_: (0, "L='/nonexistent'\n", ""))
    with pytest.raises(LabError, match=r"no Debian archive.*--vmlinux and --modules"):
        system_sources("trixie")


def test_an_unknown_kernel_names_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"there is no kernel '5\.10': use one of 6\.12-64k"):
        fetch_kernel("5.10")


def test_flavours_name_no_exact_version() -> None:
    for flavour in FLAVOURS.values():
        assert not any(character.isdigit() for character in flavour.release)
        assert flavour.package.startswith("linux-image-powerpc64le")
