"""Guest memory for the guest's own tables."""

from collections.abc import Iterable

from nestscope.sim.errors import GuestLayoutError
from nestscope.sim.events import Event, Write


class TablePool:
    """Hands out zeroed tables, aligned to their size, from `start` to `end` (bytes)."""

    def __init__(self, start: int, end: int) -> None:
        self.next = start
        self.end = end
        self.free: dict[int, list[int]] = {}

    def take(self, size: int) -> int:
        """Return the address of a table of `size` bytes (a power of two).

        Raises:
            GuestLayoutError: if the area is used up.
        """
        free = self.free.get(size)
        if free:
            return free.pop()
        table = (self.next + size - 1) & -size
        if table + size > self.end:
            raise GuestLayoutError(f"the guest has no room for a table of {size} bytes")
        self.next = table + size
        return table

    def give_back(self, table: int, size: int) -> None:
        """Take a table back; its words must be zero again before it is used."""
        self.free.setdefault(size, []).append(table)


def clear_writes(addresses: Iterable[int]) -> list[Event]:
    """Return writes of zero doublewords, neighbours joined."""
    runs: list[list[int]] = []
    for at in sorted(addresses):
        if runs and runs[-1][1] == at:
            runs[-1][1] += 8
        else:
            runs.append([at, at + 8])
    return [Write(start, bytes(end - start)) for start, end in runs]
