"""Reading several members of one structure with one read.

The layout is looked up once, when the `Record` is made; after that a structure
costs one `Memory.read` and one `struct.unpack`.
"""

import struct

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.sources.protocol import Memory

Path = str | None
_CODES = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q"}
_CODES |= {(size, True): code.lower() for (size, _), code in _CODES.items()}


class LayoutError(NestscopeError):
    """A member has a type or place that cannot be read as a number."""


class Record:
    """Some members of a struct, as whole numbers.

    Pointers and enums are unsigned numbers. `start` and `length` give the bytes
    of the struct that hold all the members.
    """

    def __init__(self, types: Types, name: str, paths: list[Path], byteorder: ByteOrder) -> None:
        """Prepare to read the members at `paths` of struct `name`.

        A path of None stands for a member that this kernel does not have: its
        value is None.

        Raises:
            UnknownTypeError: if the struct or a member does not exist.
            LayoutError: if a member is no number of 1, 2, 4 or 8 bytes.
        """
        self.name = name
        self.size = types.struct(name).size
        members = [types.member(name, path) for path in paths if path is not None]
        if not members:
            raise LayoutError(f"no member of struct {name} is to be read")
        self.start = min(member.offset for member in members)
        self.length = max(member.offset + member.size for member in members) - self.start
        codes: list[tuple[int, int, str]] = []
        for place, member in enumerate(members):
            code = _CODES.get((member.size, member.signed))
            if code is None or member.bits or member.kind not in ("int", "pointer", "enum"):
                raise LayoutError(
                    f"struct {name} has its member {member.name} as {member.size} bytes of kind "
                    f"{member.kind}, which is not a number"
                )
            codes.append((member.offset - self.start, place, code))
        codes.sort()
        text, at = "", 0
        for offset, _, code in codes:
            if offset < at:
                raise LayoutError(f"members of struct {name} that were asked for overlap")
            text += f"{offset - at}x{code}"
            at = offset + struct.calcsize(code)
        self._format = struct.Struct(prefix(byteorder) + text)
        # Where in the unpacked tuple the n-th present member is; None for an absent one.
        where = {place: position for position, (_, place, _) in enumerate(codes)}
        present = iter(range(len(members)))
        self._order = [None if path is None else where[next(present)] for path in paths]

    def unpack(self, data: bytes) -> list[int | None]:
        """Return the members' values from `length` bytes, in the order of the paths."""
        values = self._format.unpack(data)
        return [None if at is None else values[at] for at in self._order]

    def read(self, memory: Memory, address: int) -> list[int | None]:
        """Read the members of the structure at `address`.

        Raises:
            UnreadableMemoryError: if the bytes cannot be read.
        """
        return self.unpack(memory.read(address + self.start, self.length))

    def read_numbers(self, memory: Memory, address: int) -> list[int]:
        """Read the members of a Record of which every member exists.

        Raises:
            UnreadableMemoryError: if the bytes cannot be read.
        """
        values = self._format.unpack(memory.read(address + self.start, self.length))
        return [values[at] for at in self._order if at is not None]
