"""A builder of BTF bytes: what pahole would write for a few types, in either byte order."""

import struct
from dataclasses import dataclass, field

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST = 1, 2, 3, 4, 5, 6, 8, 10
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = 12, 13, 14, 15, 16, 17, 18, 19


@dataclass
class BtfBytes:
    """Types in the order in which they are added; every method returns the type's id."""

    order: str = "<"
    first_id: int = 1
    first_string: int = 0
    types: bytes = b""
    strings: bytes = b"\0"
    count: int = 0
    offsets: dict[str, int] = field(default_factory=dict)

    def string(self, text: str) -> int:
        if not text:
            return 0
        if text not in self.offsets:
            self.offsets[text] = self.first_string + len(self.strings)
            self.strings += text.encode() + b"\0"
        return self.offsets[text]

    def add(
        self,
        kind: int,
        name: str = "",
        size_or_type: int = 0,
        *words: int,
        vlen: int = 0,
        kind_flag: bool = False,
    ) -> int:
        info = kind << 24 | vlen | kind_flag << 31
        head = (self.string(name), info, size_or_type, *words)
        self.types += struct.pack(f"{self.order}{len(head)}I", *head)
        self.count += 1
        return self.first_id + self.count - 1

    def number(
        self, name: str, size: int, signed: bool = False, bits: int | None = None, offset: int = 0
    ) -> int:
        word = signed << 24 | offset << 16 | (8 * size if bits is None else bits)
        return self.add(INT, name, size, word)

    def pointer(self, to: int = 0) -> int:
        return self.add(PTR, "", to)

    def array(self, of: int, count: int) -> int:
        return self.add(ARRAY, "", 0, of, 0, count)

    def typedef(self, name: str, of: int) -> int:
        return self.add(TYPEDEF, name, of)

    def struct(
        self,
        name: str,
        size: int,
        *members: tuple[str, int, int],
        kind: int = STRUCT,
        kind_flag: bool = False,
    ) -> int:
        """Members are (name, type, bit offset word)."""
        words = [word for member, of, where in members for word in (self.string(member), of, where)]
        return self.add(kind, name, size, *words, vlen=len(members), kind_flag=kind_flag)

    def bytes(self) -> bytes:
        header = struct.pack(
            self.order + "HBBIIIII",
            0xEB9F,
            1,
            0,
            24,
            0,
            len(self.types),
            len(self.types),
            len(self.strings),
        )
        return header + self.types + self.strings

    def split(self) -> "BtfBytes":
        """Return a builder of a module's types on top of these."""
        return BtfBytes(
            self.order, self.first_id + self.count, self.first_string + len(self.strings)
        )
