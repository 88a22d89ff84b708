"""A live kernel and a capture of it are corrupted; the kernel gets its bytes back at once."""

from pathlib import Path

import pytest

from nestscope.decoders.audit.audit import audit
from nestscope.plugin.differential.corruptions.catalogue import CORRUPTIONS
from nestscope.plugin.differential.corruptions.corruption import prove
from nestscope.plugin.differential.corruptions.scene import SCENE
from nestscope.plugin.differential.corruptions.target import RamTarget
from nestscope.plugin.differential.runner import Comparison
from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse

from .test_capture import opened, write

pytestmark = pytest.mark.kernel


def run_scene(comparison: Comparison) -> None:
    for operation in parse(SCENE.strip().format(ptcr=LAYOUT.ptcr)):
        assert comparison.step(operation).differences == ()


def test_every_corruption_of_a_live_kernel_is_noticed(clean_lab: Lab, tmp_path: Path) -> None:
    """And every one of a capture of that kernel's memory."""
    path = tmp_path / "live.elf"
    with open_comparison(clean_lab) as live:
        run_scene(live.comparison)
        kernel = live.machine.kernel
        memory = kernel.memory.physical
        possible = [each for each in CORRUPTIONS if kernel.page_shift in each.page_shifts]
        assert len(possible) >= 25
        assert audit(live.machine.state(), rc_by_hardware=clean_lab.behaviour.sets_rc) == []
        write(memory, kernel, path)
        with opened(path) as target:
            unnoticed = [each.name for each in possible if not prove(each, target).noticed]
        assert unnoticed == [], "in the capture"
        target = RamTarget(clean_lab.ram_path, memory, kernel)
        unnoticed = [each.name for each in possible if not prove(each, target).noticed]
        assert unnoticed == [], "in the live kernel"
        # The kernel goes on as if nothing had been.
        (load,) = parse("nestscope-trace 1\nload 3 0x1000000")
        assert live.comparison.step(load).differences == ()
