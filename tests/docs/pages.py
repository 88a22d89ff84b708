"""The pages of the documentation, and the blocks of code in them.

A block is fenced. A comment in the line before it says what holds for it:

    <!-- not run: WHY -->     its commands are only parsed
    <!-- status 1 -->         its commands exit with 1
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"(?:<!--\s*(?P<mark>[^>]*?)\s*-->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_COMMAND = re.compile(r"^\$ (?:\.venv/bin/)?nestscope\s+(?P<arguments>.*?)(?:\s+#.*)?$")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return not self.mark.startswith("not run: ")

    @property
    def status(self) -> int:
        return int(self.mark.removeprefix("status ")) if self.mark.startswith("status ") else 0

    def commands(self) -> Iterator[list[str]]:
        """Yield the arguments of each `$ nestscope ...` of the block."""
        for line in self.text.replace("\\\n", " ").splitlines():
            found = _COMMAND.match(line)
            if found:
                yield shlex.split(found["arguments"])


def pages() -> list[Path]:
    """Return the README and every page that is written by hand, no transcript."""
    written = sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if not {"_build", "generated", "first-use.md"} & set(path.parts)
    )
    return [ROOT / "README.md", *written]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text("utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(page, line, found["language"], found["mark"] or "", found["text"])
