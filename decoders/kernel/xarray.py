"""Walk of an XArray, which an IDR is underneath (include/linux/xarray.h).

An entry with low bits 0b10 that is above 4096 is a `struct xa_node`, 2 bytes
on. The head is an entry too: without a node it is the entry of index 0. A
reserved but empty slot (`idr_alloc` with NULL) is legal.
"""

import struct
from collections.abc import Iterator

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import prefix
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.state import Problem

MAX_NODES = 4096
MAX_INDEX_BITS = 64
_XA_ZERO_ENTRY = 257 << 2 | 2


class XArrayReader:
    """Reads XArrays of pointers; the layout of `struct xa_node` is looked up once."""

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        """Prepare to read with the layouts of `types`.

        Raises:
            UnknownTypeError: if `struct xa_node` is not described.
        """
        slots = types.member("xa_node", "slots")
        self._shift_at = types.offset("xa_node", "shift")
        self._slots_at = slots.offset
        self._count = slots.dims[0] if slots.dims else 0
        self._chunk_shift = max(self._count.bit_length() - 1, 1)
        self._slots = struct.Struct(f"{prefix(memory.byteorder)}{self._count}Q")
        self._size = max(self._shift_at + 1, self._slots_at + self._slots.size)
        self._memory = memory

    def entries(self, head: int, path: str) -> tuple[list[tuple[int, int]], list[Problem]]:
        """Return `(index, pointer)` of every entry under `head`, by index, and what is wrong.

        Reserved slots are left out. At most `MAX_NODES` nodes are read.
        """
        problems: list[Problem] = []
        found = list(self._walk(head, path, problems))
        found.sort()
        return found, problems

    def _walk(self, head: int, path: str, problems: list[Problem]) -> Iterator[tuple[int, int]]:
        # Entry, index of its first element, shift of the node above it, where it was read.
        pending: list[tuple[int, int, int | None, int | None]] = [(head, 0, None, None)]
        seen: set[int] = set()
        while pending:
            entry, index, above, where = pending.pop()
            if entry in (0, _XA_ZERO_ENTRY):
                continue
            if entry & 3 == 0 and not above:
                yield index, entry
                continue
            if entry & 3 != 2 or entry <= 4096:
                problems.append(Problem(path, f"entry {entry:#x} is no pointer and no node", where))
                continue
            node = entry - 2
            if node in seen or len(seen) >= MAX_NODES:
                why = "is reached a second time" if node in seen else "is one too many"
                problems.append(Problem(path, f"xa_node {node:#x} {why} (not read)", node))
                continue
            seen.add(node)
            try:
                data = self._memory.read(node, self._size)
            except UnreadableMemoryError as error:
                problems.append(Problem(path, f"xa_node: {error}", node))
                continue
            shift = data[self._shift_at]
            wrong = above is not None and shift != above - self._chunk_shift
            if wrong or shift % self._chunk_shift or shift >= MAX_INDEX_BITS:
                problems.append(Problem(path, f"xa_node has an impossible shift {shift}", node))
                continue
            for number, slot in enumerate(self._slots.unpack_from(data, self._slots_at)):
                if slot:
                    place = node + self._slots_at + 8 * number
                    pending.append((slot, index + (number << shift), shift, place))
