"""The partition table of the host: which tree hardware walks for a shadow LPID.

`kvmhv_set_ptbl_entry`: a kernel that is itself a guest writes `pseries_partition_tb` of
kvm-hv, one on bare metal `partition_tb`. Entries are big-endian whatever the byte order
of the kernel is. An entry is two doublewords, see `words.pate`.
"""

import struct

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.symbols import UnknownSymbolError
from nestscope.decoders.state import Problem

TABLES = ("pseries_partition_tb", "partition_tb")
"""Symbols of the pointers to the table; the first that is not NULL is in use."""

_ENTRY = struct.Struct(">QQ")


class PartitionTableReader:
    """Reads entries of the partition table; finds the table when it is first asked."""

    def __init__(self, kernel: Kernel, memory: KernelMemory) -> None:
        self._kernel = kernel
        self._memory = memory
        self._table: int | None = None

    def forget(self) -> None:
        """Find the table anew: kvm-hv may have been loaded since."""
        self._table = None

    def entry(self, lpid: int, path: str) -> tuple[tuple[int, int] | None, list[Problem]]:
        """Return both doublewords of the entry of `lpid` (host order), and what is wrong.

        None: it is not known where the table is, or it cannot be read.
        """
        where = None
        try:
            where = self.place(lpid)
            if where is None:
                return None, []
            dw0, dw1 = _ENTRY.unpack(self._memory.read(where, _ENTRY.size))
        except UnreadableMemoryError as error:
            return None, [Problem(path, f"the partition table entry: {error}", where)]
        return (dw0, dw1), []

    def place(self, lpid: int) -> int | None:
        """Return the kernel address of the entry of `lpid`; None: no symbol leads to a table.

        Raises:
            UnreadableMemoryError: if a pointer to the table cannot be read.
        """
        self._table = self._table or self._find()
        return None if self._table is None else self._table + lpid * _ENTRY.size

    def _find(self) -> int | None:
        """Return the kernel address of the table in use, None if no symbol leads to one.

        Raises:
            UnreadableMemoryError: if a pointer to it cannot be read.
        """
        for name in TABLES:
            try:
                symbol = self._kernel.symbol(name)
            except UnknownSymbolError:
                continue
            table = self._memory.u64(symbol.address)
            if table:
                return table
        return None
