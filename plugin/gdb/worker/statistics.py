"""`nested stats`: how long the chains are, what is stale, what memory the rmaps hold."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.text import Text

from nestscope.decoders.state import FORM_LIST, FORM_SINGLE, Leaves, Memslot, Vm
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.decoders.words.rmap import RMAP_NESTED_SIZE
from nestscope.plugin.gdb.worker.answer import Answer, Document, Request, problem_documents
from nestscope.plugin.gdb.worker.objects import SCHEMA
from nestscope.plugin.gdb.worker.whole import whole_state
from nestscope.plugin.present.state_view import problem_lines
from nestscope.plugin.present.tables import plain_table
from nestscope.plugin.present.units import count, size

Words = NDArray[np.uint64]
_POINTER = 8
_COLUMNS = (
    *("slot", "single", "lists", "entries", "stale", "longest", "at gfn"),
    *("nodes", "array"),
)


class SlotNumbers(NamedTuple):
    """The figures of one memslot. `lengths` counts chains by the power of two of their length."""

    single: int
    lists: int
    entries: int
    stale: int
    nodes: int
    longest: int
    longest_gfn: int | None
    lengths: dict[int, int]


def stats(request: Request) -> Answer:
    """Summarise the rmaps of the VMs."""
    state = whole_state(request)
    shift = state.kernel.page_shift or 0
    chosen = request.number("vm")
    if chosen is not None:
        chosen = request.view.vm(chosen).number
    views: list[RenderableType] = []
    vms: list[Document] = []
    for number, vm in enumerate(state.vms):
        if chosen not in (None, number):
            continue
        slots = [(slot, slot_numbers(vm, slot, shift)) for slot in vm.memslots]
        vms.append(
            {
                "vm": number,
                "kvm": hex(vm.kvm),
                "host_leaves": len(vm.host_leaves),
                "nested": [
                    {"l1_lpid": guest.l1_lpid, "leaves": len(guest.leaves)} for guest in vm.nested
                ],
                "memslots": [_document(slot, numbers) for slot, numbers in slots],
            }
        )
        views += _views(number, vm, slots)
    if not vms:
        views.append(Text("there is no VM in this kernel"))
    views += problem_lines(state.problems)
    problems = problem_documents(state.problems)
    return Answer({"schema": SCHEMA, "vms": vms, "problems": problems}, tuple(views), len(vms))


def slot_numbers(vm: Vm, slot: Memslot, page_shift: int) -> SlotNumbers:
    """Count what a memslot's rmap holds. `page_shift` is log2 of the base page in bytes."""
    index = slot.rmap.index
    counts = index["count"]
    lists = index["form"] == FORM_LIST
    # A broken chain may have no entry that can be read.
    values, times = np.unique(np.maximum(counts, 1), return_counts=True)
    lengths: Counter[int] = Counter()
    for length, chains in zip(values.tolist(), times.tolist(), strict=True):
        lengths[1 << length.bit_length() - 1] += chains
    longest = int(counts.max()) if len(counts) else 0
    gfn = int(index["gfn"][int(counts.argmax())]) if len(counts) else None
    # A list of n entries has n - 1 nodes: the last entry is the last node's next pointer.
    nodes = int(np.maximum(counts[lists].astype(np.int64) - 1, 0).sum())
    return SlotNumbers(
        single=int((index["form"] == FORM_SINGLE).sum()),
        lists=int(lists.sum()),
        entries=len(slot.rmap.entries),
        stale=int(stale_entries(vm, slot, page_shift).sum()),
        nodes=nodes,
        longest=longest,
        longest_gfn=gfn,
        lengths=dict(sorted(lengths.items())),
    )


def stale_entries(vm: Vm, slot: Memslot, page_shift: int) -> NDArray[np.bool_]:
    """Say of each entry whether no shadow leaf maps the host page of its chain any more.

    The test is the kernel's own (`kvmhv_remove_nest_rmap`): the page numbers of both
    leaves, cut to the size of the host's leaf, must be equal.
    """
    entries = slot.rmap.entries
    index = slot.rmap.index
    gfns = np.empty(len(entries), np.uint64)
    order = np.argsort(index["first"], kind="stable")
    gfns[:] = np.repeat(index["gfn"][order], index["count"][order].astype(np.int64))
    host, mask, mapped = _lookup(vm.host_leaves, gfns << np.uint64(page_shift))
    live = np.zeros(len(entries), np.bool_)
    for guest in vm.nested:
        mine = np.flatnonzero(entries["l1_lpid"] == guest.l1_lpid)
        shadow, _, present = _lookup(guest.leaves, entries["n_gpa"][mine])
        wide = ~mask[mine]
        live[mine] = present & mapped[mine] & (shadow & wide == host[mine] & wide)
    return ~live


def _lookup(leaves: Leaves, addresses: Words) -> tuple[Words, Words, NDArray[np.bool_]]:
    """Return page number and offset mask of the leaf at each address, and if there is one.

    All in bytes. Where there is none the first two are zero.
    """
    columns = leaves.columns
    nothing = np.zeros(len(addresses), np.uint64)
    if not len(columns):
        return nothing, nothing, np.zeros(len(addresses), np.bool_)
    at = np.searchsorted(columns["address"], addresses, side="right").astype(np.int64) - 1
    row = columns[np.maximum(at, 0)]
    mask = (np.uint64(1) << row["shift"].astype(np.uint64)) - np.uint64(1)
    inside = (at >= 0) & (addresses - row["address"] <= mask)
    page = row["pte"] & np.uint64(PTE_RPN)
    return np.where(inside, page, nothing), np.where(inside, mask, nothing), inside


def _document(slot: Memslot, numbers: SlotNumbers) -> Document:
    return {
        "id": slot.id,
        "npages": slot.npages,
        "chains": {"single": numbers.single, "list": numbers.lists},
        "entries": numbers.entries,
        "stale": numbers.stale,
        "longest": numbers.longest,
        "longest_gfn": numbers.longest_gfn,
        "lengths": {str(length): chains for length, chains in numbers.lengths.items()},
        "node_bytes": numbers.nodes * RMAP_NESTED_SIZE,
        "array_bytes": slot.npages * _POINTER,
    }


def _views(number: int, vm: Vm, slots: list[tuple[Memslot, SlotNumbers]]) -> list[RenderableType]:
    leaves = sum(len(guest.leaves) for guest in vm.nested)
    views: list[RenderableType] = [
        Text(
            f"VM {number} at {vm.kvm:#x}: {count(len(vm.host_leaves))} host leaves, "
            f"{count(leaves)} shadow leaves of {count(len(vm.nested))} nested guests"
        )
    ]
    table = plain_table(*_COLUMNS)
    for slot, numbers in slots:
        table.add_row(
            str(slot.id),
            count(numbers.single),
            count(numbers.lists),
            count(numbers.entries),
            count(numbers.stale),
            count(numbers.longest),
            "-" if numbers.longest_gfn is None else hex(numbers.longest_gfn),
            f"{count(numbers.nodes * RMAP_NESTED_SIZE)} B",
            size(slot.npages * _POINTER),
        )
    views.append(table)
    lengths: Counter[int] = Counter()
    for _, numbers in slots:
        lengths.update(numbers.lengths)
    if lengths:
        shown = ", ".join(
            f"{_range(length)}: {count(lengths[length])}" for length in sorted(lengths)
        )
        views.append(Text(f"chains by length: {shown}"))
    return views


def _range(length: int) -> str:
    return "1" if length == 1 else f"{length}-{2 * length - 1}"
