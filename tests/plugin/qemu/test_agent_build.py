"""The lab's agent is built. Tests that boot a machine are skipped where that cannot be."""

import shutil

import pytest

from nestscope.plugin.qemu.initramfs import build_agent
from nestscope.plugin.qemu.program import COMPILER


def test_the_agent_is_built_wherever_there_is_a_compiler() -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no {COMPILER}")
    assert build_agent().read_bytes()[:4] == b"\x7fELF"
