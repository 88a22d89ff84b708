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
from nestscope.plugin.mi.records import memory_blocks
from nestscope.plugin.mi.session import GdbSession, covered
from nestscope.plugin.mi.spool import Spool

PAGE = 4096
"""Unit of reading and caching in bytes. Not the kernel's page size: QEMU lays out
RAM in multiples of it."""
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
        bytes_served: bytes given to callers.
    """

    commands: int = 0
    round_trips: int = 0
    bytes_read: int = 0
    bytes_served: int = 0


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
        self._pages: dict[int, bytes] = {}
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
        self._need(_pages_of(address, length))
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
            why = f"{len(addresses)} such reads exceed {MAX_READ} bytes"
            raise UnreadableMemoryError(int(addresses[0]), length, why)
        places = addresses.tolist()
        wanted: set[int] = set()
        for row, address in enumerate(places):
            if covered(ram, address, length):
                good[row] = True
                wanted.update(_pages_of(address, length))
        try:
            self._need(wanted)
        except UnreadableMemoryError:
            # GDB refuses some address for a reason of its own: find out which.
            for row in np.flatnonzero(good).tolist():
                good[row] = self._readable(places[row], length)
        for row in np.flatnonzero(good).tolist():
            rows[row] = np.frombuffer(self._cut(places[row], length), np.uint8)
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
        if len(self._pages) * PAGE > MAX_CACHED:
            self._pages.clear()
        needed = set(pages)
        self._used |= needed
        if needed <= self._pages.keys():
            return
        needed |= self._expected
        self._expected = set()
        runs = _runs(
            sorted(needed - self._pages.keys()),
            MAX_GAP // PAGE if self._spool is not None else 0,
            self.session.ram,
        )
        if self._spool is not None:
            with self.session.target_errors():
                fetched = self._spool.fetch(self.session.transport, runs, self.session.timeout)
        else:
            fetched = self._fetch_packets(runs)
        self.statistics.commands += len(runs)
        self.statistics.round_trips += 1
        for (address, length), data in zip(runs, fetched, strict=True):
            self.statistics.bytes_read += length
            first = address // PAGE
            for offset in range(0, length, PAGE):
                self._pages[first + offset // PAGE] = data[offset : offset + PAGE]

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

    def _readable(self, address: int, length: int) -> bool:
        try:
            self._need(_pages_of(address, length))
        except UnreadableMemoryError:
            return False
        return True

    def _cut(self, address: int, length: int) -> bytes:
        """Return cached bytes."""
        self.statistics.bytes_served += length
        if not length:
            return b""
        first, last = address // PAGE, (address + length - 1) // PAGE
        offset = address - first * PAGE
        if first == last:
            return self._pages[first][offset : offset + length]
        return b"".join(self._pages[n] for n in range(first, last + 1))[offset : offset + length]


def _pages_of(address: int, length: int) -> range:
    return range(address // PAGE, -(-(address + length) // PAGE))


def _runs(pages: Sequence[int], gap: int, ram: Sequence[range]) -> list[tuple[int, int]]:
    """Merge ascending page numbers to (address, length in bytes), at most MAX_RUN each.

    Up to `gap` pages that nobody asked for are included where a run stays in RAM.
    """
    runs: list[tuple[int, int]] = []
    for page in pages:
        address = page * PAGE
        if runs:
            start = runs[-1][0]
            length = address + PAGE - start
            near = address - sum(runs[-1]) <= gap * PAGE and length <= MAX_RUN
            if near and (not gap or covered(ram, start, length)):
                runs[-1] = (start, length)
                continue
        runs.append((address, PAGE))
    return runs
