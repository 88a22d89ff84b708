"""Fixtures that need a real kernel in a real QEMU. A test that cannot run says why."""

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.initramfs import build_agent
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.kernels import DEFAULT_KERNEL, choose_kernel
from nestscope.plugin.qemu.lab import QEMU, Lab

# A slow machine is no failure. CI judges a change, so its examples are the same each time;
# everybody else rolls the dice. Where failures are expected, as of mutants, none is shrunk.
settings.register_profile("nestscope", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("mutants", deadline=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile(os.environ.get("NESTSCOPE_HYPOTHESIS", "nestscope"))


@pytest.fixture(scope="session")
def kernel_files() -> KernelFiles:
    """The kernel under test: the default one, or the one named by NESTSCOPE_KERNEL."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"there is no {QEMU}: install qemu-system-ppc")
    try:
        build_agent()
        return choose_kernel(os.environ.get("NESTSCOPE_KERNEL", DEFAULT_KERNEL), None, None)
    except LabError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def lab(kernel_files: KernelFiles) -> Iterator[Lab]:
    """One machine for the whole session. Tests that make a VM take `clean_lab`."""
    with Lab.boot(kernel_files) as booted:
        yield booted


@pytest.fixture
def clean_lab(lab: Lab) -> Iterator[Lab]:
    """The session's machine with no VM in it."""
    lab.agent.must(["destroy"])
    yield lab
    lab.agent.must(["destroy"])
