"""Each package of the checkout is listed for installation, and nothing that is not one."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_list_of_packages_is_what_is_there() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {"nestscope"}
    for room in ("decoders", "sim", "plugin"):
        for path in (ROOT / room).rglob("__init__.py"):
            there.add(".".join(("nestscope", *path.parent.relative_to(ROOT).parts)))
    assert set(listed) == there
    assert len(listed) == len(set(listed))
