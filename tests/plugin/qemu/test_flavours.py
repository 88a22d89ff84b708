"""Names of kernels, and the package that each leads to."""

import pytest

from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.flavours import flavour


@pytest.mark.parametrize(
    ("name", "suite", "package"),
    [
        ("6.12-64k", "trixie", "linux-image-powerpc64le-64k"),
        ("sid", "sid", "linux-image-powerpc64le"),
        ("sid-64k", "sid", "linux-image-powerpc64le-64k"),
        ("trixie-backports", "trixie-backports", "linux-image-powerpc64le"),
        ("trixie-backports-64k", "trixie-backports", "linux-image-powerpc64le-64k"),
        ("bookworm:6.1.0-47-powerpc64le", "bookworm", "linux-image-6.1.0-47-powerpc64le"),
        (
            "trixie:6.12.94+deb13-powerpc64le-64k",
            "trixie",
            "linux-image-6.12.94+deb13-powerpc64le-64k",
        ),
    ],
)
def test_a_name_leads_to_a_package_of_a_suite(name: str, suite: str, package: str) -> None:
    found = flavour(name)
    assert (found.name, found.release, found.package) == (name, suite, package)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "6.13-64k",
        "-64k",
        "../sid",
        "sid/x",
        "Sid",
        "sid:",
        ":6.1",
        "sid:../x",
        "sid-65k",
        "a--b",
    ],
)
def test_anything_else_is_no_name(name: str) -> None:
    with pytest.raises(LabError, match=r"there is no kernel '.*': use one of 6\.12-64k.*sid-64k"):
        flavour(name)
