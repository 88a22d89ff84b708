"""BTF, the BPF Type Format: vmlinux's `.BTF` and the split BTF of modules.

Format: Documentation/bpf/btf.rst, include/uapi/linux/btf.h. Only the place of
each type is found when the bytes are loaded; a struct's body is decoded when
somebody asks for it. Everything is in the kernel's byte order.
"""

from array import array
from functools import partial
from itertools import count

import numpy as np

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.types import Kind, Member, Struct

MAGIC = 0xEB9F
MAX_BYTES = 64 << 20
MAX_MEMBERS = 100_000
MAX_DEPTH = 32  # of typedef chains and of anonymous structs inside each other
_HEADER_BYTES = 24

(
    _VOID,
    _INT,
    _PTR,
    _ARRAY,
    _STRUCT,
    _UNION,
    _ENUM,
    _FWD,
    _TYPEDEF,
    _VOLATILE,
    _CONST,
    _RESTRICT,
    _FUNC,
    _FUNC_PROTO,
    _VAR,
    _DATASEC,
    _FLOAT,
    _DECL_TAG,
    _TYPE_TAG,
    _ENUM64,
) = range(20)

# Words after the common three: fixed, and for each of `vlen` elements.
_FIXED_WORDS = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_ELEMENT_WORDS = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}
_TRANSPARENT = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_NAMED = frozenset({_STRUCT, _UNION, _TYPEDEF})


class BtfError(NestscopeError):
    """BTF bytes that are damaged or not BTF."""


class Btf:
    """The types of one BTF section. Satisfies `LayoutSource`."""

    def __init__(self, data: bytes, name: str, base: "Btf | None" = None) -> None:
        """Load `data`; `base` is vmlinux's BTF when these are a module's split types.

        Raises:
            BtfError: if the bytes are no BTF, or a type does not fit into them.
        """
        self.name = name
        self.base = base
        self.byteorder = _byteorder(data, name)
        words, strings = _sections(data, name, self.byteorder)
        self._words = words
        self._strings = strings
        self._first_id: int = base.end_id if base else 1
        self._first_string: int = base.end_string if base else 0
        self._at: list[int] = []
        self._by_name: dict[int, list[int]] = {}
        self._decoded: dict[int, Struct] = {}
        self._scan()

    @property
    def end_id(self) -> int:
        """One past the last type id."""
        return self._first_id + len(self._at)

    @property
    def end_string(self) -> int:
        """One past the last string offset."""
        return self._first_string + len(self._strings)

    def _scan(self) -> None:
        """Find the place of every type, and the ids of the named ones that `find` serves."""
        words, end, at = self._words, len(self._words), 0
        while at + 3 <= end:
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            if kind == _VOID or kind > _ENUM64:
                raise BtfError(f"type {self.end_id} of {self.name} has unknown BTF kind {kind}")
            if kind in _NAMED and words[at]:
                self._by_name.setdefault(words[at], []).append(self.end_id)
            self._at.append(at)
            at += 3 + _FIXED_WORDS.get(kind, 0) + (info & 0xFFFF) * _ELEMENT_WORDS.get(kind, 0)
        if at != end:
            raise BtfError(f"the BTF of {self.name} is cut short in type {self.end_id - 1}")

    def find(self, name: str) -> Struct | None:
        """Return the struct, union or typedef of one called `name`, or None.

        Raises:
            BtfError: if its description is damaged.
        """
        for offset in self._string_offsets(name.encode()):
            # A struct before a typedef of the same name, which need not be the same thing.
            ids = self._by_name.get(offset, [])
            for type_id in sorted(ids, key=lambda item: self._header(item)[1] == _TYPEDEF):
                resolved = self._resolve(type_id)
                if self._header(resolved)[1] in (_STRUCT, _UNION):
                    return self._struct(resolved, name)
        return None

    def _string_offsets(self, name: bytes) -> list[int]:
        """Return every offset at which `name` is a string, in the base or here."""
        offsets = self.base._string_offsets(name) if self.base else []
        wanted = b"\0" + name + b"\0"
        at = self._strings.find(wanted)
        while at >= 0:
            offsets.append(self._first_string + at + 1)
            at = self._strings.find(wanted, at + 1)
        return offsets

    def _string(self, offset: int) -> str:
        if offset < self._first_string and self.base:
            return self.base._string(offset)
        start = offset - self._first_string
        end = self._strings.find(b"\0", start)
        if start < 0 or end < 0:
            raise BtfError(f"the BTF of {self.name} has no string at {offset:#x}")
        return self._strings[start:end].decode("utf-8", "replace")

    def _place(self, type_id: int) -> tuple["array[int]", int]:
        """Return the words and the place among them of a type other than void."""
        if type_id < self._first_id and self.base:
            return self.base._place(type_id)
        if not self._first_id <= type_id < self.end_id:
            raise BtfError(f"the BTF of {self.name} has no type {type_id}")
        return self._words, self._at[type_id - self._first_id]

    def _header(self, type_id: int) -> tuple[int, int, int, int, bool]:
        """Return name offset, kind, vlen, size-or-type, kind_flag."""
        if type_id == 0:
            return 0, _VOID, 0, 0, False
        words, at = self._place(type_id)
        info = words[at + 1]
        return words[at], info >> 24 & 0x1F, info & 0xFFFF, words[at + 2], bool(info >> 31)

    def _resolve(self, type_id: int) -> int:
        """Follow typedefs and qualifiers to the type behind them."""
        for _ in range(MAX_DEPTH):
            _, kind, _, target, _ = self._header(type_id)
            if kind not in _TRANSPARENT:
                return type_id
            type_id = target
        raise BtfError(f"type {type_id} of {self.name} is a chain of typedefs without an end")

    def _struct(self, type_id: int, name: str) -> Struct:
        """Decode a struct or union, once."""
        known = self._decoded.get(type_id)
        if known is None:
            members: dict[str, Member] = {}
            self._add_members(members, type_id, 0, 0, count())
            known = Struct(name, self._header(type_id)[3], members)
            self._decoded[type_id] = known
        return known

    def _add_members(
        self,
        members: dict[str, Member],
        type_id: int,
        base_bits: int,
        depth: int,
        visited: "count[int]",
    ) -> None:
        """Add the members of `type_id`, which starts `base_bits` into the outer struct.

        `visited` counts all of them, also those that have no name or one that is taken:
        structs that hold each other twice would double the work at each level.
        """
        if depth > MAX_DEPTH:
            raise BtfError(f"type {type_id} of {self.name} nests too deeply")
        words, at = self._place(type_id)
        _, _, vlen, _, kind_flag = self._header(type_id)
        for start in range(at + 3, at + 3 + 3 * vlen, 3):
            name_offset, member_type, where = words[start : start + 3]
            bit_count = where >> 24 if kind_flag else 0
            bit_offset = base_bits + (where & 0xFFFFFF if kind_flag else where)
            if next(visited) >= MAX_MEMBERS:
                raise BtfError(f"type {type_id} of {self.name} has too many members")
            if name_offset:
                member = self._member(self._string(name_offset), member_type, bit_offset, bit_count)
                members.setdefault(member.name, member)
            else:
                inner = self._resolve(member_type)
                if self._header(inner)[1] in (_STRUCT, _UNION):
                    self._add_members(members, inner, bit_offset, depth + 1, visited)

    def _member(self, name: str, type_id: int, bit_offset: int, bit_count: int) -> Member:
        dims, element = self._array(type_id)
        resolved = self._resolve(element)
        name_offset, kind, _, size, _ = self._header(resolved)
        type_name = self._string(name_offset) if name_offset else ""
        what: Kind = "other"
        signed = False
        if kind in (_STRUCT, _UNION):
            what = "struct"
        elif kind == _PTR:
            what, size = "pointer", 8
        elif kind in (_ENUM, _ENUM64):
            what = "enum"
        elif kind == _FLOAT:
            what = "float"
        elif kind == _INT:
            what = "int"
            words, at = self._place(resolved)
            signed = bool(words[at + 3] >> 24 & 1)
            # Without kind_flag a bitfield is an INT with fewer bits than its size.
            int_bits = words[at + 3] & 0xFF
            if not bit_count and int_bits < 8 * size:
                bit_count = int_bits
                bit_offset += words[at + 3] >> 16 & 0xFF
        else:
            size = 0
        total = size
        for dim in dims:
            total *= dim
        return Member(
            name=name,
            offset=bit_offset // 8,
            size=total,
            kind=what,
            type_name=type_name,
            signed=signed,
            element_size=size,
            dims=dims,
            bits=(bit_offset % 8, bit_count) if bit_count else None,
            layout=partial(self._struct, resolved, type_name) if what == "struct" else None,
        )

    def _array(self, type_id: int) -> tuple[tuple[int, ...], int]:
        """Return the dimensions of an array type and its element type."""
        dims: list[int] = []
        for _ in range(MAX_DEPTH):
            resolved = self._resolve(type_id)
            if self._header(resolved)[1] != _ARRAY:
                return tuple(dims), resolved
            words, at = self._place(resolved)
            type_id = words[at + 3]
            dims.append(words[at + 5])
        raise BtfError(f"type {type_id} of {self.name} is an array without an element")


def _byteorder(data: bytes, name: str) -> ByteOrder:
    """Tell the byte order by the magic number."""
    if len(data) < _HEADER_BYTES or len(data) > MAX_BYTES:
        raise BtfError(f"the BTF of {name} has {len(data)} bytes, which cannot be right")
    if int.from_bytes(data[:2], "little") == MAGIC:
        return "little"
    if int.from_bytes(data[:2], "big") == MAGIC:
        return "big"
    raise BtfError(f"{name} holds no BTF: the magic number is {data[:2].hex()}")


def _sections(data: bytes, name: str, byteorder: ByteOrder) -> tuple["array[int]", bytes]:
    """Return the type section as words in host order, and the string section."""
    header = np.frombuffer(data, prefix(byteorder) + "u4", 6).tolist()
    header_size, type_at, type_size, string_at, string_size = header[1:]
    type_at += header_size
    string_at += header_size
    if type_size % 4 or max(type_at + type_size, string_at + string_size) > len(data):
        raise BtfError(f"the BTF of {name} is cut short, or its header is damaged")
    words = array(
        "I",
        np.frombuffer(data[type_at : type_at + type_size], prefix(byteorder) + "u4")
        .astype("=u4")
        .tobytes(),
    )
    return words, data[string_at : string_at + string_size]
