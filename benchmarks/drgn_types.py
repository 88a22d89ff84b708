"""The kernel's types for drgn, from the layouts that the image was made with.

A user of drgn has them from the kernel's debug information. Pointers point to
what they point to in the kernel's headers, so that the script can be written as usual.
"""

from collections.abc import Callable
from typing import Any

import drgn

from nestscope.decoders.kernel.types import Member, Struct, Types, UnknownTypeError

_POINTERS = {
    ("list_head", "next"): "struct list_head",
    ("list_head", "prev"): "struct list_head",
    ("hlist_node", "next"): "struct hlist_node",
    ("hlist_head", "first"): "struct hlist_node",
    ("kvm", "memslots"): "struct kvm_memslots",
    ("kvm_arch", "pgtable"): "pgd_t",
    ("kvm_nested_guest", "shadow_pgtable"): "pgd_t",
    ("kvm_arch_memory_slot", "rmap"): "unsigned long",
    ("llist_node", "next"): "struct llist_node",
}
"""What a pointer points to; others are `void *`."""

_NUMBERS = {1: "char", 2: "short", 4: "int", 8: "long"}


def add_types(prog: Any, types: Types, objects: dict[str, tuple[str, int]]) -> None:
    """Let `prog` find the structs of `types`, and `objects`: (type, address) by name."""
    kernel = _Kernel(prog, types)
    prog.register_type_finder("layouts", kernel.find, enable_index=0)

    def find_object(program: Any, name: str, _flags: Any, _filename: Any) -> Any:
        if name not in objects:
            return None
        type_name, address = objects[name]
        return drgn.Object(program, type_name, address=address)

    prog.register_object_finder("places", find_object, enable_index=0)


class _Kernel:
    """Makes drgn's types when they are asked for."""

    def __init__(self, prog: Any, types: Types) -> None:
        self._prog = prog
        self._types = types
        self._known: dict[str, Any] = {}

    def find(self, prog: Any, kinds: Any, name: str, _filename: Any) -> Any:
        """Return the type called `name`, or None; what drgn calls a type finder."""
        if drgn.TypeKind.STRUCT in kinds:
            return self._struct(name)
        if name == "pgd_t" and drgn.TypeKind.TYPEDEF in kinds:
            # typedef struct { __be64 pgd; } pgd_t; drgn turns the bytes of such a number itself.
            be64 = prog.int_type("__be64", 8, False, "big")
            body = prog.struct_type(None, 8, [drgn.TypeMember(be64, "pgd", 0)])
            return prog.typedef_type("pgd_t", body)
        return None

    def _struct(self, name: str) -> Any:
        if name == "rmap_nested":
            # kvm_book3s_64.h: struct rmap_nested { struct llist_node list; u64 rmap; };
            members = [self._later("struct llist_node", "list", 0)]
            members.append(self._later("unsigned long", "rmap", 64))
            return self._prog.struct_type(name, 16, members)
        if name == "llist_node":
            return self._prog.struct_type(name, 8, [self._later("struct llist_node *", "next", 0)])
        if name not in self._known:
            try:
                self._known[name] = self._of_layout(self._types.struct(name))
            except UnknownTypeError:
                return None
        return self._known[name]

    def _of_layout(self, layout: Struct) -> Any:
        members = [self._member(layout.name, member) for member in layout.members.values()]
        return self._prog.struct_type(layout.name, layout.size, members)

    def _member(self, struct: str, member: Member) -> Any:
        if member.kind == "struct":
            name = f"struct {member.type_name}"
        elif member.kind == "pointer":
            name = f"{_POINTERS.get((struct, member.name), 'void')} *"
        else:
            sign = "signed" if member.signed else "unsigned"
            name = f"{sign} {_NUMBERS[member.element_size]}"
        dims = "".join(f"[{count}]" for count in member.dims)
        return self._later(f"{name} {dims}".rstrip(), member.name, 8 * member.offset)

    def _later(self, type_name: str, name: str, bit_offset: int) -> Any:
        """Return a member whose type is looked up when it is needed: types refer to each other."""
        make: Callable[[], Any] = lambda: drgn.Object(  # noqa: E731
            self._prog, self._prog.type(type_name), absence_reason=drgn.AbsenceReason.OTHER
        )
        return drgn.TypeMember(make, name, bit_offset)
