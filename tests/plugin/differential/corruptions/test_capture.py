"""The file of a capture is rewritten, and opened again from its bytes alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.captured import open_capture
from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Source
from nestscope.plugin.differential.corruptions.catalogue import CORRUPTIONS
from nestscope.plugin.differential.corruptions.corruption import Corruption, prove
from nestscope.plugin.differential.corruptions.scene import Scene
from nestscope.plugin.differential.corruptions.target import FileTarget
from nestscope.plugin.dumps.capture import capture, write_capture
from nestscope.plugin.target import open_target

from .scenes import image_target

SOURCE = Source("model", "scene")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "scene.elf"
    write(image_target().memory, image_target().kernel, path)
    return path


def write(memory: Memory, kernel: Kernel, path: Path) -> None:
    write_capture(capture(memory, kernel, SOURCE, ()), memory, kernel, path)


@contextmanager
def opened(path: Path) -> Iterator[FileTarget]:
    """The capture as a target: what is written into the file is what is read next."""
    with ElfCore(path) as core:
        memory, kernel = open_capture(core, tuple(core.notes))
        yield FileTarget(path, memory, kernel, Source("elf-core", path.name))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: each.name)
def test_it_is_noticed(captured: Path, corruption: Corruption) -> None:
    with opened(captured) as target:
        assert prove(corruption, target).noticed


def test_a_file_that_stays_corrupt_is_so_for_whoever_opens_it(
    captured: Path, tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt.elf"
    corrupt.write_bytes(captured.read_bytes())
    (lost,) = [each for each in CORRUPTIONS if each.name == "single-entry-lost"]
    with opened(corrupt) as target:
        scene = Scene(target)
        place = lost.apply(scene)
        for address, data in scene.patches.items():
            target.write(address, data)
    with open_target(str(captured)) as healthy, open_target(str(corrupt)) as broken:
        assert audit(healthy.state(), rc_by_hardware=False) == []
        found = audit(broken.state(), rc_by_hardware=False)
    assert [(each.rule, each.l1_lpid, each.n_gpa) for each in found] == [
        ("I1", place["l1_lpid"], place["n_gpa"])
    ]


def test_memory_that_a_file_does_not_hold_cannot_be_written(captured: Path) -> None:
    with opened(captured) as target, pytest.raises(NestscopeError, match="0x7fff00000000"):
        target.write(0x7FFF_0000_0000, bytes(8))
