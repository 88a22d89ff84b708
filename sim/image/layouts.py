"""Struct layouts from text, by the rules of the ELF ABI for ppc64.

For kernels whose type information is not at hand. The text is C without the
punctuation: `struct NAME` in the first column, then a member a line, its type
and its name, indented. Types are u8 to u64, s8 to s64, pointer, and structs
that were described above; `name[3]` is an array. Every number is aligned to
its size, a struct to its strictest member (64-bit ELF V2 ABI, section 2.1.2).
"""

import re
from functools import partial

from nestscope.decoders.kernel.types import Kind, Member, Struct
from nestscope.sim.image.errors import ImageError

_NUMBER = re.compile(r"([us])(8|16|32|64)")
_MEMBER = re.compile(r"(\w+) +(\w+)(?:\[(\d+)\])?")


class LayoutText:
    """Layouts described by text. Satisfies `LayoutSource`."""

    def __init__(self, text: str) -> None:
        """Lay out all structs of `text`.

        Raises:
            ImageError: naming the line that cannot be understood.
        """
        self._structs: dict[str, Struct] = {}
        self._aligns: dict[str, int] = {}
        name = ""
        lines: list[str] = []
        for line in [*text.splitlines(), "struct end"]:
            if not line.startswith("struct "):
                lines.append(line.strip())
                continue
            members = [member for member in lines if member]
            if name:
                self._add(name, members)
            elif members:
                raise ImageError(f"{members[0]!r} belongs to no struct")
            name, lines = line.removeprefix("struct ").strip(), []

    def find(self, name: str) -> Struct | None:
        """Return the struct called `name`, or None."""
        return self._structs.get(name)

    def _add(self, name: str, lines: list[str]) -> None:
        """Lay out one struct."""
        members: dict[str, Member] = {}
        end, strictest = 0, 1
        for line in lines:
            match = _MEMBER.fullmatch(line)
            if match is None or match[2] in members:
                raise ImageError(f"{line!r} in struct {name} is not a type and a new name")
            size, align, kind, inner = self._type(match[1], line)
            dims = (int(match[3]),) if match[3] else ()
            total = size * dims[0] if dims else size
            end += -end % align
            members[match[2]] = Member(
                name=match[2],
                offset=end,
                size=total,
                kind=kind,
                type_name=match[1],
                signed=match[1].startswith("s") and kind == "int",
                element_size=size,
                dims=dims,
                layout=None if inner is None else partial(self._structs.__getitem__, inner),
            )
            end += total
            strictest = max(strictest, align)
        self._structs[name] = Struct(name, end + -end % strictest, members)
        self._aligns[name] = strictest

    def _type(self, name: str, line: str) -> tuple[int, int, Kind, str | None]:
        """Return size, alignment and kind of a type, and its name if it is a struct."""
        number = _NUMBER.fullmatch(name)
        if number is not None:
            size = int(number[2]) // 8
            return size, size, "int", None
        if name == "pointer":
            return 8, 8, "pointer", None
        if name not in self._structs:
            raise ImageError(f"{line!r} is of a type that is not described above it")
        return self._structs[name].size, self._aligns[name], "struct", name
