"""Physical memory of a stopped live target, with as few round trips as possible.

QEMU's stub answers at most 2048 bytes a packet, and its physical mode costs two
packets more. Two commands of the monitor take any length in one round trip:

| way, GDB 13.1 and QEMU 7.2                 | round trips      | MB/s |
|--------------------------------------------|------------------|------|
| physical mode and packets                  | 2 + 1 each 2 KiB | 8    |
| `monitor xp`, which prints                 | 1                | 1.7  |
| `monitor pmemsave`, to a file we both see  | 1                | 1000 |

A target at a unix socket is on this machine, so `pmemsave` is tried; if QEMU cannot
write there, packets are left. `xp` prints a line for each 16 bytes, which GDB
acknowledges one by one while QEMU does not listen: on a unix socket both would wait
for ever after some 250 lines, TCP joins the acknowledgements. So a few pages of a
target at a TCP port come through `xp`, many through packets.

A target that is not QEMU has no monitor and no physical mode. Its memory is read at
addresses of the kernel's linear map, as far as the stub translates them.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.sources.protocol import Rows
from nestscope.plugin.gdb.worker.gdb_side import GdbSide
from nestscope.plugin.mi.pages import PAGE, PageStore, covered, pages_of, runs_of
from nestscope.plugin.mi.stub import ram_ranges_in

MAX_XP = 64 << 10
"""Longest run in bytes that is read through the monitor."""
MAX_XP_RUNS = 4
MAX_GAP = 64 << 10
"""Unwanted bytes that a run written by QEMU may include: cheaper than one more command."""
MAX_READ = 256 << 20
MAX_KEPT = 512 << 20
_BATCH = 4 << 20
_WORDS = re.compile(r"0x([0-9a-f]{16})")


class LiveMemory:
    """`BulkMemory` of physical addresses of a stopped target. Pages are kept until `forget`."""

    def __init__(self, gdb: GdbSide, *, qemu: bool, unix: bool) -> None:
        """Read the target of `gdb`, which is QEMU or not, at a unix socket or not."""
        self._gdb = gdb
        self._qemu = qemu
        self._pages = PageStore(MAX_KEPT)
        self._ram: Sequence[range] | None = None
        self._print = qemu and not unix
        self._save = qemu and unix

    def forget(self) -> None:
        """Drop all bytes: the target has run."""
        self._pages.clear()

    @property
    def ram(self) -> Sequence[range]:
        """Physical ranges that hold RAM. Reading elsewhere could have effects on devices."""
        if self._ram is None:
            if self._qemu:
                self._ram = ram_ranges_in(self._gdb.monitor("info mtree -f"))
            else:
                self._ram = (range(1 << 51),)  # the linear map ends there
        return self._ram

    def read(self, address: int, length: int) -> bytes:
        """Return exactly `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if any of the bytes cannot be read.
            TargetLostError: if the target is gone.
        """
        if not 0 <= length <= MAX_READ:
            raise UnreadableMemoryError(address, length, f"not within 0..{MAX_READ} bytes")
        if not covered(self.ram, address, length):
            raise UnreadableMemoryError(address, length, "the target has no RAM there")
        self.need(pages_of(address, length))
        data = self._pages.read(address, length)
        if data is None:
            raise UnreadableMemoryError(address, length, "the stub cannot read it")
        return data

    def read_many(self, addresses: NDArray[np.uint64], length: int) -> Rows:
        """Return `length` bytes at each address, fetched together (see `BulkMemory`)."""
        rows = np.zeros((len(addresses), length), np.uint8)
        good = np.zeros(len(addresses), np.bool_)
        if rows.nbytes > MAX_READ:
            return rows, good
        places = addresses.tolist()
        readable = [covered(self.ram, address, length) for address in places]
        wanted: set[int] = set()
        for address, inside in zip(places, readable, strict=True):
            if inside:
                wanted.update(pages_of(address, length))
        self.need(wanted)
        for row, (address, inside) in enumerate(zip(places, readable, strict=True)):
            data = self._pages.read(address, length) if inside else None
            if data is not None:
                rows[row] = np.frombuffer(data, np.uint8)
                good[row] = True
        return rows, good

    def need(self, pages: Iterable[int]) -> None:
        """Fetch those of `pages` (physical page numbers) that are not kept yet.

        Raises:
            TargetLostError: if the target is gone.
        """
        missing = sorted(self._pages.missing(pages))
        if self._save and self._saved(runs_of(missing, _BATCH, MAX_GAP, self.ram)):
            return
        runs = runs_of(missing, _BATCH)
        few = len(runs) <= MAX_XP_RUNS and all(length <= MAX_XP for _, length in runs)
        if few and self._print:
            for address, length in runs:
                self._pages.keep(address, self._printed(address, length))
            return
        for batch in _batches(runs):
            self._by_packets(batch)

    def _saved(self, runs: Sequence[tuple[int, int]]) -> bool:
        """Let QEMU write each run to a file of ours; say whether it could."""
        for address, length in runs:
            with TemporaryDirectory(prefix="nestscope-") as folder:
                file = Path(folder) / "memory"
                self._gdb.monitor(f'pmemsave {address:#x} {length:#x} "{file}"')
                data = file.read_bytes() if file.is_file() else b""
            if len(data) != length:
                self._save = False
                return False
            self._pages.keep(address, data)
        return True

    def _printed(self, address: int, length: int) -> bytes:
        text = self._gdb.monitor(f"xp/{length // 8}gx {address:#x}")
        # `xp` prints words as the target's processor type has them: big-endian.
        data = bytes.fromhex("".join(_WORDS.findall(text)))
        if len(data) != length:
            raise NestscopeError(
                f"QEMU's monitor printed {len(data)} of {length} bytes at {address:#x}"
            )
        return data

    def _by_packets(self, runs: Sequence[tuple[int, int]]) -> None:
        if self._qemu:
            raw, bad = self._gdb.read_runs("physical", runs)
        else:
            virtual = [(LINEAR_START | address, length) for address, length in runs]
            raw, bad = self._gdb.read_runs("virtual", virtual)
        at = 0
        for number, (address, length) in enumerate(runs):
            if number not in bad:
                self._pages.keep(address, raw[at : at + length])
            elif length > PAGE:
                # One bad page must not hide the others.
                self._by_packets([(here, PAGE) for here in range(address, address + length, PAGE)])
            at += length

    def has(self, address: int) -> bool:
        """Say whether the page of physical `address` is kept."""
        return self._pages.has(address // PAGE)


def _batches(runs: Sequence[tuple[int, int]]) -> Iterable[list[tuple[int, int]]]:
    """Cut runs into batches of limited size, so that the answers stay small."""
    batch: list[tuple[int, int]] = []
    size = 0
    for run in runs:
        if batch and size + run[1] > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += run[1]
    if batch:
        yield batch
