"""The kernel's console: what is new, its tail, and whether it says that the kernel failed."""

import re
from dataclasses import dataclass
from pathlib import Path

from nestscope.plugin.qemu.errors import FailureKind

_READ_LIMIT = 1 << 20
_KEEP = 256 << 10

# In order: an oops that ends in a panic is an oops, a panic after a stall is a panic.
_FAILURES: tuple[tuple[FailureKind, re.Pattern[str]], ...] = (
    (
        "oops",
        re.compile(
            r"\bOops: |kernel BUG at |\bBUG: (?!soft lockup)|"
            r"Unable to handle kernel |Kernel attempted to \w+ user page|"
            r"Unrecoverable \w+ exception|Bad kernel stack pointer"
        ),
    ),
    ("panic", re.compile(r"Kernel panic - not syncing")),
    (
        "hung",
        re.compile(
            r"detected stalls? on|self-detected stall|BUG: soft lockup|hard LOCKUP|"
            r"blocked for more than \d+ seconds"
        ),
    ),
    ("died", re.compile(r"nestscope-agent: the VMM ended|nestscope-agent: no command channel")),
)
# "WARNING: CPU: 0 PID: 1 at file:line func" or "WARNING: file:line at func, CPU#0: comm/1";
# a driver's own message that begins with WARNING is no splat.
_WARNING = re.compile(r"WARNING: .*\bCPU(?:: ?|#)\d+.*|WARNING: (?:possible|suspicious|bad) .*")


@dataclass(frozen=True, slots=True)
class Sign:
    """A line of the console that says that the kernel or the agent failed."""

    kind: FailureKind
    line: str


def find_failure(text: str) -> Sign | None:
    """Return the worst sign of failure in console text, or None."""
    for kind, pattern in _FAILURES:
        found = pattern.search(text)
        if found:
            start = text.rfind("\n", 0, found.start()) + 1
            end = text.find("\n", found.end())
            return Sign(kind, text[start : end if end >= 0 else len(text)].strip())
    return None


def find_warnings(text: str) -> list[str]:
    """Return the headline of every WARNING splat in console text."""
    return [found.group(0).strip() for found in _WARNING.finditer(text)]


class Console:
    """The console log file that QEMU writes. Reading never waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._text = ""
        self._warnings: list[str] = []
        self._line = ""
        self._sign: Sign | None = None

    def poll(self) -> str:
        """Take in what is new and return it (at most 1 MiB a call)."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                new = log.read(_READ_LIMIT)
        except FileNotFoundError:
            return ""
        self._offset += len(new)
        text = new.decode("utf-8", errors="replace").replace("\r", "")
        self._text = (self._text + text)[-_KEEP:]
        # Only whole lines are searched, so that a headline is never cut or counted twice.
        whole, newline, self._line = (self._line + text).rpartition("\n")
        self._warnings += find_warnings(whole + newline)
        if text:
            self._sign = find_failure(self._text)
        return text

    def failure(self) -> Sign | None:
        """Return the sign of failure on the console so far, or None."""
        self.poll()
        return self._sign

    def warnings(self) -> list[str]:
        """Return the headlines of all WARNING splats so far."""
        self.poll()
        return list(self._warnings)

    def tail(self, lines: int) -> str:
        """Return the last `lines` lines."""
        self.poll()
        return "\n".join(self._text.splitlines()[-lines:])
