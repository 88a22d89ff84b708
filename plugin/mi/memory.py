"""Physical memory of a stopped target through GDB/MI.

What bounds the rate, measured with GDB 13.1 and QEMU 7.2 (ratios matter):

| way                                                  | rate, first row = 1 |
|------------------------------------------------------|---------------------|
| `-data-read-memory-bytes`, any size from 64 KiB      | 1 (13 MB/s)         |
| the same, `set remote memory-read-packet-size` bigger| 1                   |
| GDB's `read_memory` in its own Python                | 1.2                 |
| `dump binary memory` to a file                       | 1.3                 |
| `maint packet m...`                                  | 0.08                |
| `monitor xp`                                         | 0.03                |
| `monitor pmemsave` to a file, 64 KiB each, pipelined | 25                  |

QEMU takes at most 2048 bytes a packet and answers at once; four fifths of the time
GDB itself spends scanning the packet character by character, and then writing the
hex again. No setting changes that. Pipelining doubles the rate of small reads.
So reads go by packets, unless the caller names a spool directory, which QEMU can
write to: then long runs go by `pmemsave`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.plugin.mi.errors import GdbCommandError
from nestscope.plugin.mi.records import memory_blocks
from nestscope.plugin.mi.session import GdbSession, covered
from nestscope.plugin.mi.spool import Spool

PAGE = 4096
"""Unit of reading and caching in bytes. Not the kernel's page size: QEMU lays out
RAM in multiples of it."""
MAX_RUN = 1 << 20
"""Longest run of one command in bytes: what bounds memory while it is hex."""
MAX_READ = 256 << 20
MAX_CACHED = 512 << 20
SPOOL_MIN = 8192
"""Shortest run in bytes for which a spool file pays."""


@dataclass(slots=True)
class MiStatistics:
    """What reading has cost.

    Attributes:
        commands: MI commands sent for reading.
        round_trips: times that we waited for GDB (commands of one wait are pipelined).
        bytes_read: bytes fetched from the target.
        bytes_served: bytes given to callers.
    """

    commands: int = 0
    round_trips: int = 0
    bytes_read: int = 0
    bytes_served: int = 0


class GdbMemory:
    """`decoders.sources.protocol.Memory` of guest physical addresses.

    Pages are cached until the target runs or is written to. Reading while it runs
    raises TargetRunningError: wrap it in `with session.stopped():`.

    Args:
        session: connected in physical mode.
        spool: directory that QEMU and we share, for fast large reads.
    """

    def __init__(self, session: GdbSession, *, spool: Path | None = None) -> None:
        self.session = session
        self.statistics = MiStatistics()
        self._spool = Spool(spool) if spool is not None else None
        self._pages: dict[int, bytes] = {}
        self._generation = session.generation

    def read(self, address: int, length: int) -> bytes:
        """Return exactly `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if any of the bytes is not in RAM.
            TargetRunningError, TargetGoneError: the target cannot be read now.
        """
        return self.read_many([(address, length)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (address, length), fetched together; errors as in `read`."""
        self.session.require_stopped()
        if self._generation != self.session.generation or len(self._pages) * PAGE > MAX_CACHED:
            self._pages.clear()
            self._generation = self.session.generation
        ram = self.session.ram
        wanted: set[int] = set()
        for address, length in ranges:
            if length < 0 or length > MAX_READ:
                raise UnreadableMemoryError(address, length, f"not within 0..{MAX_READ} bytes")
            if not covered(ram, address, length):
                raise UnreadableMemoryError(address, length, "the target has no RAM there")
            wanted.update(range(address // PAGE, -(-(address + length) // PAGE)))
        self._fetch(sorted(wanted.difference(self._pages)))
        served = [self._cut(address, length) for address, length in ranges]
        self.statistics.bytes_served += sum(map(len, served))
        return served

    def close(self) -> None:
        """Remove the spool's files; the session stays."""
        self._pages.clear()
        if self._spool is not None:
            self._spool.close()

    def _cut(self, address: int, length: int) -> bytes:
        if not length:
            return b""
        first, last = address // PAGE, (address + length - 1) // PAGE
        offset = address - first * PAGE
        if first == last:
            return self._pages[first][offset : offset + length]
        return b"".join(self._pages[n] for n in range(first, last + 1))[offset : offset + length]

    def _fetch(self, pages: Sequence[int]) -> None:
        runs = _runs(pages)
        long = [run for run in runs if self._spool is not None and run[1] >= SPOOL_MIN]
        short = [run for run in runs if self._spool is None or run[1] < SPOOL_MIN]
        if long and self._spool is not None:
            transport, timeout = self.session.transport, self.session.timeout
            with self.session.target_errors():
                fetched = self._spool.fetch(transport, long, timeout)
            self._keep(long, fetched)
        if short:
            self._keep(short, self._fetch_packets(short))

    def _fetch_packets(self, runs: Sequence[tuple[int, int]]) -> list[bytes]:
        commands = [f"-data-read-memory-bytes {address:#x} {length}" for address, length in runs]
        try:
            with self.session.target_errors():
                results = self.session.transport.execute_many(commands, self.session.timeout)
        except GdbCommandError as error:
            address, length = runs[0]
            raise UnreadableMemoryError(address, length, error.reason) from error
        found = []
        for (address, length), result in zip(runs, results, strict=True):
            blocks = memory_blocks(result.record)
            if len(blocks) != 1 or blocks[0].begin != address or len(blocks[0].data) != length:
                raise UnreadableMemoryError(address, length, "GDB returned only parts of it")
            found.append(blocks[0].data)
        return found

    def _keep(self, runs: Sequence[tuple[int, int]], fetched: Sequence[bytes]) -> None:
        self.statistics.commands += len(runs)
        self.statistics.round_trips += 1
        for (address, length), data in zip(runs, fetched, strict=True):
            self.statistics.bytes_read += length
            first = address // PAGE
            for offset in range(0, length, PAGE):
                self._pages[first + offset // PAGE] = data[offset : offset + PAGE]


def _runs(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Merge ascending page numbers to (address, length in bytes), at most MAX_RUN each."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        address = page * PAGE
        if runs and sum(runs[-1]) == address and runs[-1][1] < MAX_RUN:
            runs[-1] = (runs[-1][0], runs[-1][1] + PAGE)
        else:
            runs.append((address, PAGE))
    return runs
