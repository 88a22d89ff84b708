"""Layouts that GDB has read from debug information. Satisfies `LayoutSource`."""

from typing import Any, cast

from nestscope.decoders.kernel.types import Kind, Member, Struct
from nestscope.plugin.gdb.worker.gdb_side import GdbSide

NEEDED = ("kvm", "kvm_memslots", "kvm_memory_slot", "kvm_nested_guest")
"""What GDB must know to be asked for types at all: they come with the KVM modules' symbols."""


class GdbTypes:
    """Asks GDB for each structure once."""

    def __init__(self, gdb: GdbSide) -> None:
        self._gdb = gdb
        self._known: dict[str, Struct | None] = {}

    @property
    def complete(self) -> bool:
        """Whether GDB knows the structures of KVM."""
        return all(self.find(name) is not None for name in NEEDED)

    def find(self, name: str) -> Struct | None:
        """Return the struct, union or typedef of one called `name`, or None."""
        if name not in self._known:
            told, _ = self._gdb.ask("struct", name=name)
            found = told["struct"]
            self._known[name] = None if found is None else self._struct(name, found)
        return self._known[name]

    def _struct(self, name: str, told: dict[str, Any]) -> Struct:
        members = [self._member(member) for member in told["members"]]
        return Struct(name, int(told["size"]), {member.name: member for member in members})

    def _member(self, told: dict[str, Any]) -> Member:
        inner = told["struct"]
        bits = told["bits"]
        return Member(
            name=told["name"],
            offset=told["offset"],
            size=told["size"],
            kind=cast(Kind, told["kind"]),
            type_name=told["type"],
            signed=told["signed"],
            element_size=told["element"],
            dims=tuple(told["dims"]),
            bits=None if bits is None else (bits[0], bits[1]),
            layout=None if inner is None else lambda: self._inner(inner),
        )

    def _inner(self, name: str) -> Struct:
        found = self.find(name)
        assert found is not None  # GDB named it itself
        return found
