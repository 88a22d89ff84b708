"""docs/audit.md is what its script makes of the declarations and of what was measured."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from nestscope.decoders.audit.audit import RULES
from nestscope.plugin.differential.corruptions.catalogue import CORRUPTIONS

DOCS = Path(__file__).parents[4] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_page", DOCS / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_of_today(script: ModuleType) -> None:
    """If this fails: `.venv/bin/python docs/audit.py`."""
    results = json.loads((DOCS / "audit.json").read_text())
    assert (DOCS / "audit.md").read_text() == script.page(results)


def test_every_rule_has_its_section_and_every_corruption_its_row() -> None:
    lines = (DOCS / "audit.md").read_text().splitlines()
    for rule in RULES:
        assert f"### `{rule.id}` {rule.name}" in lines
    for each in CORRUPTIONS:
        assert any(line.startswith(f"| {each.name} | `{each.rule}` |") for line in lines)


def test_everything_was_noticed_and_nothing_fired_on_healthy_kernels() -> None:
    results = json.loads((DOCS / "audit.json").read_text())
    for target, noticed in results["noticed"].items():
        assert all(noticed.values()), target
        assert len(noticed) >= len(CORRUPTIONS) - 1
    assert len(results["noticed"]) == 8
    for kernel, found in results["health"].items():
        assert found["unexplained"] == [], kernel
        assert found["programs"] >= 1000
    assert len(results["health"]) == 3
