"""`nested chain`: which nested guests map a guest page, by gfn or by guest real address."""

from rich.table import Table
from rich.text import Text

from nestscope.decoders.chains import FORM_EMPTY
from nestscope.decoders.radix import LINUX, RadixRoot, Walk, walk
from nestscope.decoders.state import FORM_NAMES
from nestscope.decoders.two_stage import chain_gfn, kernel_root
from nestscope.plugin.gdb.worker.answer import Answer, Document, Request, problem_documents
from nestscope.plugin.gdb.worker.kernel_view import ChainAt, KernelView, LookupFailedError, VmAt
from nestscope.plugin.gdb.worker.objects import SCHEMA
from nestscope.plugin.present.state_view import problem_lines
from nestscope.plugin.present.tables import plain_table


def chain(request: Request) -> Answer:
    """Show the chain of a gfn; with `--gpa`, of the page that holds a guest real address.

    A chain hangs at the first gfn of the host's leaf. A gfn is taken as it is; an
    address is first walked through the host's tree.
    """
    vm = request.radix_vm()
    view = request.view
    if request.flag("gpa"):
        gfn, leaf = leaf_start(view, vm, request.needed("place"))
        found = view.chain(vm, gfn)
        note = "" if leaf else "the host maps nothing there: the chain is that of the base page"
    else:
        found = view.chain(vm, request.needed("place"))
        note = ""
    document = {
        "schema": SCHEMA,
        "vm": vm.number,
        "kvm": hex(vm.address),
        **chain_document(found),
        "problems": problem_documents((*view.problems, *found.reading.problems)),
    }
    views = [*chain_views(vm, found)]
    if note:
        views.append(Text(note))
    views += problem_lines(view.problems)
    return Answer(document, tuple(views), len(found.reading.entries))


def chain_text(request: Request) -> Answer:
    """`$_nested_chain(gfn)`: the chain as a text, head first; `$_nested_chain_length`: a number."""
    vm = request.radix_vm()
    found = request.view.chain(vm, request.needed("place"))
    if request.flag("length"):
        return Answer(value=len(found.reading.entries))
    lpid, n_gpa = request.number("l1_lpid"), request.number("n_gpa")
    if lpid is not None:
        return Answer(value=int((lpid, n_gpa) in found.reading.entries))
    return Answer(value=one_line(found))


def one_line(found: ChainAt) -> str:
    """Return a chain in one line: form, then `(l1_lpid, n_gpa)` head first."""
    form = form_name(found)
    entries = " ".join(f"({entry.l1_lpid}, {entry.n_gpa:#x})" for entry in found.reading.entries)
    broken = f" [broken: {found.reading.problems[0].message}]" if found.reading.problems else ""
    return f"{form} {entries}".rstrip() + broken


def form_name(found: ChainAt) -> str:
    """Return "empty", "single" or "list"."""
    form = found.reading.form
    return "empty" if form == FORM_EMPTY else FORM_NAMES[form]


def chain_document(found: ChainAt) -> Document:
    """Return a chain with the addresses of its parts."""
    nodes = [hex(node) for node in found.reading.nodes]
    entries = found.reading.entries
    return {
        "gfn": found.gfn,
        "memslot": found.memslot.id,
        "address": hex(found.address),
        "word": hex(found.word),
        "form": form_name(found),
        "entries": [
            {
                "l1_lpid": entry.l1_lpid,
                "n_gpa": hex(entry.n_gpa),
                "node": nodes[at] if at < len(nodes) else None,
            }
            for at, entry in enumerate(entries)
        ],
    }


def chain_views(vm: VmAt, found: ChainAt) -> list[Table | Text]:
    """Return a chain for the terminal."""
    head = Text(
        f"VM {vm.number}, memslot {found.memslot.id}, gfn {found.gfn:#x}: "
        f"rmap word {found.word:#018x} at {found.address:#x}, {form_name(found)}"
    )
    views: list[Table | Text] = [head]
    if found.reading.entries:
        table = plain_table("l1_lpid", "n_gpa", "kept in")
        nodes = found.reading.nodes
        for at, entry in enumerate(found.reading.entries):
            kept = f"node {nodes[at]:#x}" if at < len(nodes) else "last word"
            table.add_row(str(entry.l1_lpid), hex(entry.n_gpa), kept)
        views.append(table)
    views += problem_lines(found.reading.problems)
    return views


def host_walk(view: KernelView, vm: VmAt, gpa: int) -> Walk:
    """Walk a guest real address through the host's tree.

    Raises:
        LookupFailedError: if the VM has no page directory.
    """
    return walk(view.physical, root_of(vm.raw.pgtable, f"VM {vm.number}"), gpa, LINUX)


def root_of(pgtable: int | None, whose: str) -> RadixRoot:
    """Return the root of one of the kernel's own trees from its address in the linear map.

    Raises:
        NestscopeError: if there is none.
    """
    if not pgtable:
        raise LookupFailedError(f"{whose} has no page directory")
    return kernel_root(pgtable, whose)


def leaf_start(view: KernelView, vm: VmAt, gpa: int) -> tuple[int, bool]:
    """Return the gfn that the chain of an address hangs at, and whether a leaf says so."""
    found = host_walk(view, vm, gpa)
    if found.leaf is None:
        return gpa >> view.kernel.page_shift, False
    return chain_gfn(gpa, found.leaf.shift, view.kernel.page_shift), True
