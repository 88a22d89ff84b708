"""Layouts of the kernel's structures, wherever they come from.

BTF is one source of layouts (`btf.Btf`); anything that satisfies
`LayoutSource` is another. No kernel version is compared anywhere: readers ask
`has` for a member and take what is there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal, Protocol

from nestscope.decoders.errors import NestscopeError

Kind = Literal["int", "pointer", "struct", "enum", "float", "other"]
_PART = re.compile(r"(\w+)((?:\[\d+\])*)")


class UnknownTypeError(NestscopeError):
    """No source of layouts has this struct, or the struct has no such member."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union.

    `offset` is in bytes from the start of the struct, `size` in bytes with all
    array elements. For an array `dims` holds its dimensions (outermost first,
    0 for a flexible one) and `kind`, `type_name` and `element_size` describe
    the element. A bitfield has `bits`: first bit counted from `offset` as the
    compiler counts them, and number of bits.
    """

    name: str
    offset: int
    size: int
    kind: Kind
    type_name: str = ""
    signed: bool = False
    element_size: int = 0
    dims: tuple[int, ...] = ()
    bits: tuple[int, int] | None = None
    layout: "Callable[[], Struct] | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct or union: size in bytes, members by name.

    The members of anonymous structs and unions are members of the struct
    itself, as in C.
    """

    name: str
    size: int
    members: Mapping[str, Member]


class LayoutSource(Protocol):
    """Something that knows layouts: BTF, DWARF, a stored profile."""

    def find(self, name: str) -> Struct | None:
        """Return the struct, union or typedef of one called `name`, or None."""
        ...


class Types:
    """Struct layouts by name, and members by path (`"arch.pgtable"`, `"mem[0].base"`)."""

    def __init__(self, sources: Sequence[LayoutSource]) -> None:
        """Ask `sources` in this order."""
        self._sources = list(sources)
        self._known: dict[str, Struct] = {}

    def add(self, source: LayoutSource) -> None:
        """Ask `source` too, after the others."""
        self._sources.append(source)

    def struct(self, name: str) -> Struct:
        """Return the layout of a struct, union, or typedef of one.

        Raises:
            UnknownTypeError: if no source has it.
        """
        known = self._known.get(name)
        if known is not None:
            return known
        for source in self._sources:
            found = source.find(name)
            if found is not None:
                self._known[name] = found
                return found
        raise UnknownTypeError(
            f"no type information describes struct {name}; "
            "give the folder with the kernel's modules (--modules) or debug files (--debug)"
        )

    def member(self, struct: str, path: str) -> Member:
        """Return the member at `path`, its offset counted from the start of `struct`.

        Raises:
            UnknownTypeError: if the struct or the member does not exist.
        """
        layout: Struct | None = self.struct(struct)
        base = 0
        found: Member | None = None
        for part in path.split("."):
            match = _PART.fullmatch(part)
            found = layout.members.get(match[1]) if layout is not None and match else None
            if match is None or found is None:
                raise UnknownTypeError(f"struct {struct} has no member {path}")
            found = _element(found, match[2], f"{struct}.{path}")
            base += found.offset
            layout = found.layout() if found.layout is not None and not found.dims else None
        assert found is not None  # str.split gives at least one part
        return replace(found, offset=base)

    def offset(self, struct: str, path: str) -> int:
        """Return the byte offset of the member at `path`.

        Raises:
            UnknownTypeError: if the struct or the member does not exist.
        """
        return self.member(struct, path).offset

    def has(self, struct: str, path: str) -> bool:
        """Say whether the struct exists and has a member at `path`."""
        return self.first(struct, path) is not None

    def first(self, struct: str, *paths: str) -> str | None:
        """Return the first of `paths` that `struct` has, or None."""
        for path in paths:
            try:
                self.member(struct, path)
            except UnknownTypeError:
                continue
            return path
        return None


def _element(member: Member, indices: str, where: str) -> Member:
    """Return the array element that `indices` ("[1][0]") choose."""
    chosen = [int(index) for index in re.findall(r"\d+", indices)]
    if not chosen:
        return member
    if len(chosen) > len(member.dims):
        raise UnknownTypeError(f"{where} has more indices than the array has dimensions")
    offset = member.offset
    for depth, index in enumerate(chosen):
        # A flexible array has dimension 0 and takes any index.
        if 0 < member.dims[depth] <= index:
            raise UnknownTypeError(f"{where} is outside the array")
        offset += index * member.element_size * prod(member.dims[depth + 1 :])
    rest = member.dims[len(chosen) :]
    return replace(member, offset=offset, size=member.element_size * prod(rest), dims=rest)
