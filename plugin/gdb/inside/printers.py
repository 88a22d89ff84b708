"""Pretty-printers for the structures of the nested MMU, where GDB has their types."""

from typing import Any, Iterator, Optional, Tuple

import gdb
import gdb.printing

from .commands import Link
from .target import little_endian, unsigned

Child = Tuple[str, Any]


class PtePrinter:
    """`pte_t`: the word in host order, and its fields."""

    def __init__(self, value: Any, link: Link) -> None:
        self._value = value
        self._link = link

    def to_string(self) -> str:
        """Return one line."""
        word = _big_endian_word(self._value)
        return "{:#018x} {}".format(word, _decoded(self._link, "pte", word))


class RmapNestedPrinter:
    """`struct rmap_nested`: a node of a chain."""

    def __init__(self, value: Any, link: Link) -> None:
        self._value = value
        self._link = link

    def to_string(self) -> str:
        """Return one line: the entry, and where the chain goes on."""
        entry = unsigned(self._value["rmap"])
        following = unsigned(self._value["list"]["next"])
        return "entry {:#x} {}; next {:#x} {}".format(
            entry,
            _entry(entry),
            following,
            _entry(following) if following & 1 else "node" if following else "NULL",
        )


class NestedGuestPrinter:
    """`struct kvm_nested_guest`: what names it and where its tables are."""

    _shown = ("l1_host", "l1_gr_to_hr", "process_table", "shadow_pgtable")

    def __init__(self, value: Any, _: Link) -> None:
        self._value = value

    def to_string(self) -> str:
        """Return the heading."""
        return "nested guest l1_lpid {}, shadow_lpid {}, refcnt {}".format(
            *(int(self._value[name]) for name in ("l1_lpid", "shadow_lpid", "refcnt"))
        )

    def children(self) -> Iterator[Child]:
        """Yield the members worth seeing."""
        for name in self._shown:
            yield name, hex(unsigned(self._value[name]))


class MemslotPrinter:
    """`struct kvm_memory_slot`: the range of guest frames, and the rmap array."""

    def __init__(self, value: Any, _: Link) -> None:
        self._value = value

    def to_string(self) -> str:
        """Return the heading."""
        first, pages = int(self._value["base_gfn"]), int(self._value["npages"])
        return "memslot {}: gfn {:#x} to {:#x}".format(
            int(self._value["id"]), first, first + max(pages, 1) - 1
        )

    def children(self) -> Iterator[Child]:
        """Yield the members worth seeing."""
        for name in ("npages", "flags"):
            yield name, self._value[name]
        yield "userspace_addr", hex(unsigned(self._value["userspace_addr"]))
        yield "rmap", hex(unsigned(self._value["arch"]["rmap"]))


class Printers(gdb.printing.PrettyPrinter):
    """Chooses a printer by the name of the type."""

    def __init__(self, link: Link) -> None:
        kinds = {
            "pte_t": PtePrinter,
            "rmap_nested": RmapNestedPrinter,
            "kvm_nested_guest": NestedGuestPrinter,
            "kvm_memory_slot": MemslotPrinter,
        }
        self._kinds = kinds
        self._link = link
        names = [gdb.printing.SubPrettyPrinter(name) for name in kinds]
        super(Printers, self).__init__("nestscope", names)

    def __call__(self, value: Any) -> Optional[Any]:
        """Return the printer of a value, or None."""
        name = value.type.unqualified().name
        if name not in self._kinds:
            name = value.type.strip_typedefs().unqualified().tag
        kind = self._kinds.get(name)
        enabled = {each.name: each.enabled for each in self.subprinters or ()}
        return kind(value, self._link) if kind is not None and enabled.get(name) else None


def _decoded(link: Link, word: str, value: int) -> str:
    """Return a word's meaning; a printer must not fail because the worker cannot run."""
    try:
        return str(link.ask("decode", {"word": word, "value": value})["value"])
    except gdb.GdbError as error:
        return "<{}>".format(error)


def _entry(word: int) -> str:
    """Return a packed entry as (l1_lpid, n_gpa): RMAP_NESTED_* of kvm_book3s_64.h."""
    return "(l1_lpid {}, n_gpa {:#x})".format(word >> 52, word & 0x000FFFFFFFFFF000)


def _big_endian_word(value: Any) -> int:
    """Return a table entry in host order: tables are big-endian whatever the kernel is."""
    data = value
    while data.type.strip_typedefs().code == gdb.TYPE_CODE_STRUCT:
        data = data[data.type.strip_typedefs().fields()[0]]
    number = unsigned(data)
    return int.from_bytes(number.to_bytes(8, "little"), "big") if little_endian() else number


def register_printers(link: Link) -> None:
    """Make the printers known to GDB."""
    gdb.printing.register_pretty_printer(None, Printers(link), replace=True)
