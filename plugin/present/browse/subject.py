"""What `browse` shows: a source, opened anew for each reading.

A live target is so only stopped while it is read, and runs on while it is looked at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from nestscope.decoders.two_stage import TwoStageWalk
from nestscope.plugin.library import Opened, open_source
from nestscope.plugin.present.browse.app import Snapshot
from nestscope.plugin.present.findings import finding_places


class OpenedSubject:
    """A source by its name; `files` describe the kernel, as for `nestscope.open`."""

    def __init__(self, name: str, **files: Path | None) -> None:
        self.name = name
        self._files = files
        # A gdbstub takes one client at a time.
        self._lock = Lock()

    @contextmanager
    def _open(self) -> Iterator[Opened]:
        with self._lock, open_source(self.name, **self._files) as opened:
            yield opened

    def read(self) -> Snapshot:
        """Read State and findings.

        Raises:
            NestscopeError: if the source cannot be opened.
        """
        with self._open() as opened:
            rows = [
                (each.rule, each.severity, each.message, ", ".join(finding_places(each)))
                for each in opened.check()
            ]
            return Snapshot(opened.state(), rows)

    def walk(self, address: int, lpid: int | None, vm: int) -> TwoStageWalk:
        """Walk an address.

        Raises:
            NestscopeError: if there is no such VM or nested guest any more.
        """
        with self._open() as opened:
            return opened.walk(address, lpid=lpid, vm=vm)
