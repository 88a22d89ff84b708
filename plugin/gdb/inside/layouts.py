"""Layouts of structures as GDB knows them, for the worker.

A structure is `{"size": bytes, "members": [...]}`, a member `{"name", "offset",
"size", "kind", "type", "signed", "element", "dims", "bits", "struct"}`: what
`decoders.kernel.types.Member` holds. `struct` is the name to ask for what a member
consists of. Members of anonymous structures count as the structure's own, as in C.
"""

from typing import Any, Dict, List, Optional

import gdb

_INTEGERS = (gdb.TYPE_CODE_INT, gdb.TYPE_CODE_CHAR, gdb.TYPE_CODE_BOOL)
_STRUCTS = (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION)


class Layouts:
    """Finds types by name; those without a name of their own are numbered as they appear."""

    def __init__(self) -> None:
        self._unnamed: Dict[str, Any] = {}

    def forget(self) -> None:
        """Drop the numbered types: GDB reads other symbols now."""
        self._unnamed.clear()

    def find(self, name: str) -> Optional[Dict[str, Any]]:
        """Return the structure, union or typedef of one called `name`, or None."""
        kind = self._unnamed.get(name)
        if kind is None:
            kind = _lookup(name)
        if kind is None:
            return None
        members: List[Dict[str, Any]] = []
        self._collect(kind, 0, members)
        return {"size": kind.sizeof, "members": members}

    def _collect(self, kind: Any, base: int, members: List[Dict[str, Any]]) -> None:
        for field in kind.fields():
            if not hasattr(field, "bitpos"):
                continue  # a static member
            inner = field.type.strip_typedefs()
            if not field.name and inner.code in _STRUCTS:
                self._collect(inner, base + field.bitpos, members)
            elif field.name:
                members.append(self._member(field, base))

    def _member(self, field: Any, base: int) -> Dict[str, Any]:
        element = field.type.strip_typedefs()
        dims: List[int] = []
        while element.code == gdb.TYPE_CODE_ARRAY:
            low, high = element.range()
            dims.append(max(high - low + 1, 0))
            element = element.target().strip_typedefs()
        first = base + field.bitpos
        size = field.type.sizeof
        bits = None
        offset = first // 8
        if field.bitsize:
            # Counted from the start of a unit of the member's own type.
            offset = first // (8 * size) * size
            bits = [first - 8 * offset, field.bitsize]
        return {
            "name": field.name,
            "offset": offset,
            "size": size,
            "kind": _kind(element),
            "type": element.name or "",
            "signed": _signed(element),
            "element": element.sizeof,
            "dims": dims,
            "bits": bits,
            "struct": self._name(element) if element.code in _STRUCTS else None,
        }

    def _name(self, kind: Any) -> str:
        """Return the name under which `find` finds this very type."""
        # A tag of another file may have the same name, so every inner type is numbered.
        name = "#{}".format(len(self._unnamed))
        self._unnamed[name] = kind
        return name


def _lookup(name: str) -> Optional[Any]:
    for spelling in ("struct " + name, "union " + name, name):
        try:
            found = gdb.lookup_type(spelling).strip_typedefs()
        except gdb.error:
            continue
        if found.code in _STRUCTS and found.fields():
            return found
    return None


def _kind(element: Any) -> str:
    if element.code in _STRUCTS:
        return "struct"
    if element.code == gdb.TYPE_CODE_PTR:
        return "pointer"
    if element.code == gdb.TYPE_CODE_ENUM:
        return "enum"
    if element.code in _INTEGERS:
        return "int"
    return "float" if element.code == gdb.TYPE_CODE_FLT else "other"


def _signed(element: Any) -> bool:
    if element.code not in _INTEGERS:
        return False
    # `Type.is_signed` came with GDB 12; without it the value of -1 tells.
    known = getattr(element, "is_signed", None)
    return bool(gdb.Value(-1).cast(element) < 0) if known is None else bool(known)
