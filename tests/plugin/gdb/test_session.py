"""The recorded session of the docs: the script runs here, and the page is what it would write."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.qemu.lab import Lab

DOCS = Path(__file__).parents[3] / "docs"
# Different from boot to boot: addresses, page numbers, LPIDs that the host gave.
_CHANGING = re.compile(r"\b(0x[0-9a-f]{4,}|\d+)\b")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("gdb_session", DOCS / "gdb_session.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gdb_session"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gdb_session"]


def comparable(text: str) -> list[list[str]]:
    """Words of each line, without what differs from boot to boot."""
    masked = _CHANGING.sub("#", text)
    lines = [re.sub(r"[─ ]+", " ", line).split() for line in masked.splitlines()]
    return [line for line in lines if line]


@pytest.mark.kernel
def test_the_session_of_the_docs(script: ModuleType, clean_lab: Lab) -> None:
    with open_machine(clean_lab) as live:
        scenes = script.record(clean_lab, live)
    outputs = {scene.command: scene.plain for scene in scenes}
    assert "0 VMs" not in outputs["nested check"]
    inserted, removed = (scene.plain for scene in scenes if scene.command == "continue")
    assert "was inserted at" in inserted
    assert "was removed from" in removed
    shown = (DOCS / "gdb-session.md").read_text("utf-8")
    now = script.page(scenes, clean_lab.kernel.release)
    if f"Linux {clean_lab.kernel.release} in" in shown:
        assert comparable(now) == comparable(shown)


def test_the_picture_is_there() -> None:
    assert "nested" in (DOCS / "gdb-session.svg").read_text("utf-8")
    assert "(gdb-session.svg)" in (DOCS / "gdb-session.md").read_text("utf-8")
