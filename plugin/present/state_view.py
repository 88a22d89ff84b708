"""A State for the terminal: one renderer for real memory and for the model."""

from collections.abc import Iterable, Iterator
from itertools import islice

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nestscope.decoders.state import Chain, Memslot, NestedGuest, Problem, State, Vm
from nestscope.plugin.present.tables import plain_table
from nestscope.plugin.present.units import count, size

_SHOWN_ENTRIES = 4
_MEMSLOT = ("id", "gfn", "pages", "size", "flags", "chains", "entries", "rmap array")
_NESTED = ("l1_lpid", "shadow", "refs", "l1_gr_to_hr", "shadow_pgtable", "leaves")


def state_view(state: State, limit: int | None = 40) -> Iterator[RenderableType]:
    """Yield what to print for a State. `limit` bounds the rows of each rmap table."""
    release = state.kernel.release or "unknown kernel"
    page = "?" if state.kernel.page_shift is None else size(1 << state.kernel.page_shift)
    yield Text(f"{state.source.kind} {state.source.name}: {release}, {page} pages")
    if not state.vms:
        yield Text("no VM exists")
    for vm in state.vms:
        yield from _vm_view(vm, state.kernel.page_shift, limit)
    if state.problems:
        yield _problem_table(state.problems)


def _vm_view(vm: Vm, page_shift: int | None, limit: int | None) -> Iterator[RenderableType]:
    mode = {True: "radix", False: "HPT", None: "unknown MMU mode"}[vm.radix]
    yield Text(
        f"\nVM {vm.kvm:#x}: lpid {_known(vm.lpid)}, {mode}, l1_ptcr {_hex(vm.l1_ptcr)}, "
        f"{count(len(vm.host_leaves))} host leaves"
        + (", mmu_lock held: in transition" if vm.mmu_lock_held else "")
    )
    yield _memslot_table(vm.memslots, page_shift)
    if vm.nested:
        yield _nested_table(vm.nested)
    for memslot in vm.memslots:
        if len(memslot.rmap):
            yield _rmap_table(memslot, limit)


def _memslot_table(memslots: tuple[Memslot, ...], page_shift: int | None) -> Table:
    table = plain_table(*_MEMSLOT, title="memslots")
    for memslot in memslots:
        table.add_row(
            str(memslot.id),
            hex(memslot.base_gfn),
            count(memslot.npages),
            "?" if page_shift is None else size(memslot.npages << page_shift),
            _hex(memslot.flags),
            count(len(memslot.rmap)),
            count(len(memslot.rmap.entries)),
            _hex(memslot.rmap_array),
        )
    return table


def _nested_table(nested: tuple[NestedGuest, ...]) -> Table:
    table = plain_table(*_NESTED, title="nested guests")
    for guest in nested:
        table.add_row(
            str(guest.l1_lpid),
            _known(guest.shadow_lpid),
            _known(guest.refcnt),
            _hex(guest.l1_gr_to_hr),
            _hex(guest.shadow_pgtable),
            count(len(guest.leaves)),
        )
    return table


def _rmap_table(memslot: Memslot, limit: int | None) -> Table:
    table = plain_table("gfn", title=f"rmap of memslot {memslot.id} (head first)")
    table.add_column("form")
    table.add_column("entries: l1_lpid n_gpa")
    for chain in islice(memslot.rmap, limit):
        table.add_row(hex(chain.gfn), chain.form, _entries(chain))
    hidden = 0 if limit is None else len(memslot.rmap) - limit
    if hidden > 0:
        table.caption = f"{count(hidden)} more chains: --all shows them"
    return table


def _entries(chain: Chain) -> str:
    shown = ", ".join(f"{lpid} {n_gpa:#x}" for lpid, n_gpa in chain.entries[:_SHOWN_ENTRIES])
    hidden = len(chain.entries) - _SHOWN_ENTRIES
    return f"{shown} and {count(hidden)} more" if hidden > 0 else shown


def _problem_table(problems: tuple[Problem, ...]) -> Table:
    table = plain_table(title="what could not be read")
    table.add_column("where")
    table.add_column("address", no_wrap=True)
    table.add_column("what")
    for problem in problems:
        table.add_row(problem.path, _hex(problem.address), problem.message)
    return table


def problem_lines(problems: Iterable[Problem]) -> list[Text]:
    """Return a line for each thing that could not be read."""
    return [Text(f"not read: {problem.path}: {problem.message}") for problem in problems]


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _hex(value: int | None) -> str:
    return "unknown" if value is None else hex(value)
