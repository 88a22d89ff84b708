"""What the browser can show of a State: each view is a table of any length.

A view makes the rows of a window on demand, so that a table of millions of rows
costs what is seen of it. Nothing here draws.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nestscope.decoders.compare import describe_chain
from nestscope.decoders.state import Chains, Leaves, Memslot, NestedGuest, State, Vm
from nestscope.decoders.words.pte import PTE_C, PTE_R, permissions, real_address
from nestscope.plugin.present.units import count, size

Row = tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A table: `rows(first, count)` returns a window of its `length` rows.

    `find(address)` returns the row that covers an address (bytes), or None.
    `nested` is the l1_lpid whose addresses the rows have; None for guest real ones.
    `walks(row)` is the address that a row is about, None where a walk says nothing.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    length: int
    rows: Callable[[int, int], Sequence[Row]]
    find: Callable[[int], int | None]
    vm: int | None = None
    nested: int | None = None
    walks: Callable[[int], int | None] = lambda _: None

    def search(self, text: str, start: int, most: int = 100_000) -> int | None:
        """Return the first row from `start` on that holds `text`, around the end once.

        Looks at no more than `most` rows, so that it answers at once.
        """
        wanted = text.lower()
        for step in range(0, min(self.length, most), 1000):
            first = (start + step) % self.length
            for at, row in enumerate(self.rows(first, min(1000, self.length - first))):
                if any(wanted in cell.lower() for cell in row):
                    return first + at
        return None


def views(state: State, findings: Sequence[Row]) -> Iterator[View]:
    """Yield every view of a State, in the order of the tree on the left.

    `findings` are rows of rule, severity, message and place.
    """
    yield _listed("findings", "audit", ("rule", "severity", "what is wrong", "where"), findings)
    if state.problems:
        problems = [(each.path, _hex(each.address), each.message) for each in state.problems]
        yield _listed("problems", "not read", ("where", "address", "what"), problems)
    for number, vm in enumerate(state.vms):
        yield from _vm_views(number, vm, state.kernel.page_shift)


def _vm_views(number: int, vm: Vm, shift: int | None) -> Iterator[View]:
    at = f"vm{number}"
    yield _listed(f"{at}.memslots", "memslots", _MEMSLOT, _memslots(vm.memslots, shift), number)
    yield _listed(f"{at}.nested", "nested guests", _NESTED, _nested(vm.nested), number)
    for memslot in vm.memslots:
        yield _chains(f"{at}.rmap{memslot.id}", memslot, shift, number)
    yield _leaves(f"{at}.host", "host tree", vm.host_leaves, number, None)
    for guest in vm.nested:
        title = f"shadow tree of {guest.l1_lpid}"
        yield _leaves(f"{at}.shadow{guest.l1_lpid}", title, guest.leaves, number, guest.l1_lpid)


_MEMSLOT = ("id", "start", "size", "flags", "chains", "entries", "rmap array", "userspace_addr")
_NESTED = ("l1_lpid", "shadow_lpid", "refcnt", "leaves", "l1_gr_to_hr", "shadow_pgtable")
_LEAF = ("address", "page", "PTE", "leads to", "allows")


def _memslots(memslots: Iterable[Memslot], shift: int | None) -> list[Row]:
    return [
        (
            str(each.id),
            hex(each.base_gfn << (shift or 0)),
            "?" if shift is None else size(each.npages << shift),
            _hex(each.flags),
            count(len(each.rmap)),
            count(len(each.rmap.entries)),
            _hex(each.rmap_array),
            _hex(each.userspace_addr),
        )
        for each in memslots
    ]


def _nested(guests: Iterable[NestedGuest]) -> list[Row]:
    return [
        (
            str(each.l1_lpid),
            _known(each.shadow_lpid),
            _known(each.refcnt),
            count(len(each.leaves)),
            _hex(each.l1_gr_to_hr),
            _hex(each.shadow_pgtable),
        )
        for each in guests
    ]


def _listed(
    key: str, title: str, columns: tuple[str, ...], rows: Sequence[Row], vm: int | None = None
) -> View:
    """Return a view of rows that exist already."""
    title = f"{title} ({count(len(rows))})"
    return View(key, title, columns, len(rows), lambda at, n: rows[at : at + n], lambda _: None, vm)


def _chains(key: str, memslot: Memslot, shift: int | None, vm: int) -> View:
    chains, page = memslot.rmap, shift or 0
    gfns = chains.index["gfn"]

    def rows(first: int, number: int) -> list[Row]:
        window = Chains(chains.index[first : first + number], chains.entries)
        return [
            (
                hex(chain.gfn),
                hex(chain.gfn << page),
                chain.form,
                count(len(chain.entries)),
                describe_chain(chain).split(" ", 1)[1],
            )
            for chain in window
        ]

    def find(address: int) -> int | None:
        at = int(np.searchsorted(gfns, address >> page, side="right")) - 1
        return at if at >= 0 and int(gfns[at]) == address >> page else None

    return View(
        key,
        f"rmap of memslot {memslot.id} ({count(len(chains))})",
        ("gfn", "address", "form", "entries", "(l1_lpid, n_gpa), head first"),
        len(chains),
        rows,
        find,
        vm,
        walks=lambda row: int(gfns[row]) << page,
    )


def _leaves(key: str, title: str, leaves: Leaves, vm: int, nested: int | None) -> View:
    columns = leaves.columns

    def rows(first: int, number: int) -> list[Row]:
        return [
            (
                hex(address),
                size(1 << shift),
                f"{pte:#018x}",
                hex(real_address(pte)),
                f"{permissions(pte)} {'R' * bool(pte & PTE_R)}{'C' * bool(pte & PTE_C)}",
            )
            for address, shift, pte in columns[first : first + number].tolist()
        ]

    def find(address: int) -> int | None:
        leaf = leaves.covering(address)
        if leaf is None:
            return None
        return int(np.searchsorted(columns["address"], leaf.address))

    return View(
        key,
        f"{title} ({count(len(leaves))})",
        _LEAF,
        len(leaves),
        rows,
        find,
        vm,
        nested,
        walks=lambda row: int(columns["address"][row]),
    )


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _hex(value: int | None) -> str:
    return "unknown" if value is None else hex(value)
