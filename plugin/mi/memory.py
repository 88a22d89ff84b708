"""Physical memory of a stopped target through GDB/MI.

What bounds the rate, measured with GDB 13.1 and QEMU 7.2 (ratios matter):

| way                                                  | rate, first row = 1 |
|------------------------------------------------------|---------------------|
| `-data-read-memory-bytes`, any size from 64 KiB      | 1 (13 MB/s)         |
| the same, any of the settings below                  | 0.7 to 1 (noise)    |
| GDB's `read_memory` in its own Python                | 1.2                 |
| `dump binary memory` to a file                       | 1.3                 |
| `maint packet m...`                                  | 0.08                |
| `monitor xp`                                         | 0.03                |
| `monitor pmemsave` to a file in tmpfs, 64 KiB each   | 20                  |
| the same, 1 MiB each                                 | 50                  |

QEMU takes at most 2048 bytes a packet and answers at once; four fifths of the time
GDB itself spends scanning the packet character by character, and then writing the
hex again. Settings tried without gain, one run each: code-cache, stack-cache, mem
inaccessible-by-default, remotecache, remote memory-read-packet-size.
Pipelining doubles the rate of small reads.
So reads go by packets, unless the caller names a spool directory that QEMU can
write to: then they go by `pmemsave` (see `spool`).

A reader that follows pointers waits once for each. So the first read after the
target ran fetches, together and afresh, all pages that were used the time before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import Rows
from nestscope.plugin.mi.errors import GdbCommandError
from nestscope.plugin.mi.pages import PAGE, PageStore, covered, pages_of, runs_of
from nestscope.plugin.mi.records import memory_blocks
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.mi.spool import Spool

MAX_RUN = 1 << 20
"""Longest run of one command in bytes: what bounds memory while it is hex."""
MAX_GAP = 64 << 10
"""Unwanted bytes that a spooled run may include: they cost less than one more command."""
MAX_READ = 256 << 20
MAX_CACHED = 512 << 20
MAX_EXPECTED = 16 << 20
"""Most bytes that are fetched on the guess that they are needed again."""


@dataclass(slots=True)
class MiStatistics:
    """What reading has cost.

    Attributes:
        commands: MI commands sent for reading.
        round_trips: times that we waited for GDB (the commands of one wait are pipelined).
        bytes_read: bytes fetched from the target.
    """

    commands: int = 0
    round_trips: int = 0
    bytes_read: int = 0


class GdbMemory:
    """`decoders.sources.protocol.BulkMemory` of guest physical addresses.

    Pages are cached until the target runs or is written to. Reading while it runs
    raises TargetRunningError: wrap it in `with session.stopped():`.

    Args:
        session: connected in physical mode.
        spool: directory that QEMU and we share, for fast reads.
    """

    def __init__(self, session: GdbSession, *, spool: Path | None = None) -> None:
        self.session = session
        self.statistics = MiStatistics()
        self._spool = Spool(spool) if spool is not None else None
        self._pages = PageStore(MAX_CACHED)
        self._used: set[int] = set()
        self._expected: set[int] = set()
        self._generation = session.generation

    def read(self, address: int, length: int) -> bytes:
        """Return exactly `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if any of the bytes is not in RAM.
            TargetRunningError, TargetGoneError: the target cannot be read now.
        """
        self._refresh()
        if not 0 <= length <= MAX_READ:
            raise UnreadableMemoryError(address, length, f"not within 0..{MAX_READ} bytes")
        if not covered(self.session.ram, address, length):
            raise UnreadableMemoryError(address, length, "the target has no RAM there")
        self._need(pages_of(address, length))
        return self._cut(address, length)

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each of `addresses`, fetched together (see `BulkMemory`).

        Raises:
            TargetRunningError, TargetGoneError: the target cannot be read now.
        """
        self._refresh()
        ram = self.session.ram
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        if rows.nbytes > MAX_READ:
            return rows, good
        places = addresses.tolist()
        wanted: set[int] = set()
        for row, address in enumerate(places):
            if covered(ram, address, length):
                good[row] = True
                wanted.update(pages_of(address, length))
        together = True
        try:
            self._need(wanted)
        except UnreadableMemoryError:
            # GDB refuses some address for a reason of its own: find out which.
            together = False
        for row in np.flatnonzero(good).tolist():
            cut = self._cut if together else self._cut_alone
            data = cut(places[row], length)
            good[row] = data is not None
            if data is not None:
                rows[row] = np.frombuffer(data, np.uint8)
        return rows, good

    def close(self) -> None:
        """Remove the spool's files; the session stays."""
        self._pages.clear()
        if self._spool is not None:
            self._spool.close()

    def _refresh(self) -> None:
        """Forget all bytes from before the target's last run."""
        self.session.require_stopped()
        if self._generation != self.session.generation:
            self._pages.clear()
            self._generation = self.session.generation
            self._expected = self._used if len(self._used) * PAGE <= MAX_EXPECTED else set()
            self._used = set()

    def _need(self, pages: Iterable[int]) -> None:
        """Make sure that `pages` (numbers of pages in RAM) are in the cache."""
        needed = set(pages)
        self._used |= needed
        missing = self._pages.missing(needed)
        if not missing:
            return
        missing |= self._pages.missing(self._expected)
        self._expected = set()
        gap = MAX_GAP if self._spool is not None else 0
        runs = runs_of(sorted(missing), MAX_RUN, gap, self.session.ram)
        if self._spool is not None:
            with self.session.target_errors():
                fetched = self._spool.fetch(self.session.transport, runs, self.session.timeout)
        else:
            fetched = self._fetch_packets(runs)
        self.statistics.commands += len(runs)
        self.statistics.round_trips += 1
        for (address, length), data in zip(runs, fetched, strict=True):
            self.statistics.bytes_read += length
            self._pages.keep(address, data)

    def _fetch_packets(self, runs: Sequence[tuple[int, int]]) -> list[bytes]:
        commands = [f"-data-read-memory-bytes {address:#x} {length}" for address, length in runs]
        try:
            with self.session.target_errors():
                results = self.session.transport.execute_many(commands, self.session.timeout)
        except GdbCommandError as error:
            raise UnreadableMemoryError(
                *runs[commands.index(error.command)], error.reason
            ) from error
        found = []
        for (address, length), result in zip(runs, results, strict=True):
            blocks = memory_blocks(result.record)
            if len(blocks) != 1 or blocks[0].begin != address or len(blocks[0].data) != length:
                raise UnreadableMemoryError(address, length, "GDB returned only parts of it")
            found.append(blocks[0].data)
        return found

    def _cut_alone(self, address: int, length: int) -> bytes | None:
        """Fetch and return bytes, None if GDB cannot read them."""
        try:
            self._need(pages_of(address, length))
        except UnreadableMemoryError:
            return None
        return self._cut(address, length)

    def _cut(self, address: int, length: int) -> bytes:
        """Return bytes of pages that were fetched."""
        data = self._pages.read(address, length)
        assert data is not None  # `_need` raises where it cannot fetch a page
        return data
