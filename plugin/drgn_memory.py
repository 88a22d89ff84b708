"""Memory of a drgn Program as a source, so that our readers run inside drgn.

    from nestscope.plugin.drgn_memory import DrgnMemory
    memory = DrgnMemory(prog)
    state = read_state(memory, open_kernel(memory), Source("drgn", "prog"))

drgn itself is not imported here: the Program comes from the caller.
"""

from typing import Protocol

from nestscope.decoders.errors import UnreadableMemoryError

MAX_READ = 256 << 20


class Program(Protocol):
    """The one method of `drgn.Program` that is needed."""

    def read(self, address: int, size: int, physical: bool = False) -> bytes:
        """Read `size` bytes at `address`."""
        ...


class DrgnMemory:
    """Physical memory of a drgn Program. Satisfies `Memory`."""

    kind = "drgn"

    def __init__(self, program: Program) -> None:
        self._program = program

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at physical `address`.

        Raises:
            UnreadableMemoryError: if drgn cannot read them.
        """
        if not 0 <= length <= MAX_READ or not 0 <= address < 1 << 64:
            raise UnreadableMemoryError(address, length, "no such range of physical addresses")
        try:
            return bytes(self._program.read(address, length, True))
        except Exception as error:
            # drgn.FaultError, without importing drgn; ValueError: a Program without memory.
            if type(error).__name__ != "FaultError" and not isinstance(error, ValueError):
                raise
            raise UnreadableMemoryError(address, length, f"drgn says: {error}") from error
