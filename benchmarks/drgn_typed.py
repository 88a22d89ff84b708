"""The listing as a user of drgn writes it: typed objects, and drgn's own helpers.

It begins at `vm_list`, as nestscope does, and follows the kernel's structures:
`list_for_each_entry`, `idr_for_each_entry`, `hlist_for_each_entry`, members, array
elements. It is written with care: what is the same in each turn of a loop is taken
out of it, and values are read once.

drgn translates no addresses of an image without VMCOREINFO, so the program is given
the kernel's address space as memory segments: the linear map, and each page of vmalloc.
"""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drgn
from drgn.helpers.linux.idr import idr_for_each_entry
from drgn.helpers.linux.list import hlist_for_each_entry, list_for_each_entry

from benchmarks.drgn_script import (
    EA_MASK,
    LEAF,
    LINEAR,
    RPN,
    TABLE,
    VALID,
    Listing,
    by_table,
    leaves,
    open_program,
)
from benchmarks.drgn_types import add_types
from nestscope.decoders.kernel.types import Types

GPA = 0xF_FFFF_FFFF_F000
VMALLOC = 0xC008_0000_0000_0000

Elements = Callable[[Any, Any, int, int], "list[int]"]


def open_kernel(path: Path, pgd: int, vm_list: int, types: Types) -> Any:
    """Return a Program on a raw image of RAM that knows the kernel's types and addresses."""
    prog = open_program(path)
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def segment(start: int) -> Callable[[int, int, int, bool], bytes]:
        def read(_address: int, count: int, offset: int, _physical: bool) -> bytes:
            at = start + offset
            return memory[at : at + count]

        return read

    prog.add_memory_segment(LINEAR, len(memory), segment(0))
    for address, shift, pte in leaves(prog, pgd | LINEAR, by_table):
        # The kernel's tree has 52 bits of each address; all of its addresses begin alike.
        virtual = (LINEAR & ~EA_MASK) | address
        if virtual >= VMALLOC:
            prog.add_memory_segment(virtual, 1 << shift, segment(pte & RPN))
    add_types(prog, types, {"vm_list": ("struct list_head", vm_list)})
    return prog


def one_by_one(prog: Any, element: Any, address: int, count: int) -> list[int]:
    """Read an array element by element, as a script that indexes a pointer does."""
    return _values(drgn.Object(prog, prog.array_type(element, count), address=address))


def read_first(prog: Any, element: Any, address: int, count: int) -> list[int]:
    """Read an array with one read of memory (`read_`), then take its elements as objects."""
    array = drgn.Object(prog, prog.array_type(element, count), address=address)
    return _values(array.read_())


def _values(array: Any) -> list[int]:
    if array.type_.type.type_name() == "pgd_t":
        return [entry.pgd.value_() for entry in array]
    return [entry.value_() for entry in array]


def listing(path: Path, pgd: int, vm_list: int, types: Types, elements: Elements) -> Listing:
    """List all leaves and all rmap entries of the one VM in the raw image at `path`."""
    prog = open_kernel(path, pgd, vm_list, types)
    (kvm,) = list_for_each_entry("struct kvm", prog["vm_list"].address_of_(), "vm_list")
    nested = idr_for_each_entry(
        kvm.arch.kvm_nested_guest_idr.address_of_(), "struct kvm_nested_guest"
    )
    shadow = [tree_leaves(prog, guest.shadow_pgtable, elements) for _, guest in nested]
    entries: list[tuple[int, int, int]] = []
    slots = kvm.memslots[0]
    node = f"id_node[{slots.node_idx.value_()}]"
    for bucket in slots.id_hash:
        for slot in hlist_for_each_entry("struct kvm_memory_slot", bucket.address_of_(), node):
            entries += rmap_entries(prog, slot, elements)
    return Listing(tree_leaves(prog, kvm.arch.pgtable, elements), shadow, entries)


def tree_leaves(prog: Any, pgtable: Any, elements: Elements) -> list[tuple[int, int, int]]:
    """Return the leaves of the tree at a `pgd_t *`, ascending."""
    found: list[tuple[int, int, int]] = []
    pgd_t = prog.type("pgd_t")

    def visit(table: int, bits: int, first: int, span: int) -> None:
        shift = span - bits
        for index, word in enumerate(elements(prog, pgd_t, table, 1 << bits)):
            if not word & VALID:
                continue
            address = first | index << shift
            if word & LEAF:
                found.append((address, shift, word))
            else:
                visit(LINEAR | word & TABLE, word & 31, address, shift)

    visit(pgtable.value_(), 13, 0, 52)
    return found


def rmap_entries(prog: Any, slot: Any, elements: Elements) -> list[tuple[int, int, int]]:
    """Return the entries of all chains of a `struct kvm_memory_slot *`."""
    found: list[tuple[int, int, int]] = []
    rmap_nested = prog.type("struct rmap_nested *")
    base_gfn = slot.base_gfn.value_()
    words = elements(prog, prog.type("unsigned long"), slot.arch.rmap.value_(), slot.npages)
    for gfn, head in enumerate(words, base_gfn):
        word = head
        while word:
            if word & 1:
                found.append((gfn, word >> 52, word & GPA))
                break
            node = drgn.Object(prog, rmap_nested, word)
            entry = node.rmap.value_()
            found.append((gfn, entry >> 52, entry & GPA))
            word = node.list.next.value_()
    return found
