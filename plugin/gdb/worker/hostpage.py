"""`nested hostpage`: from a host page back to the guests and nested guests that map it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from nestscope.decoders.kernel.memory import ROOT_BITS
from nestscope.decoders.kernel.vms import RawNested
from nestscope.decoders.radix import LINUX, walk
from nestscope.decoders.state import Entry, Leaf, Leaves
from nestscope.decoders.trees import tree_leaves
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.plugin.gdb.worker.answer import Answer, Document, Request, problem_documents
from nestscope.plugin.gdb.worker.chain import chain_document, chain_views, root_of
from nestscope.plugin.gdb.worker.kernel_view import ChainAt, KernelView, LookupFailedError, VmAt
from nestscope.plugin.gdb.worker.objects import SCHEMA
from nestscope.plugin.present.state_view import problem_lines
from nestscope.plugin.present.tables import plain_table

MAX_SHOWN = 64


class Mapping(NamedTuple):
    """A leaf of a VM's host tree that maps the page, the chain there, each entry's standing."""

    vm: VmAt
    leaf: Leaf
    chain: ChainAt | None
    standing: tuple[str, ...]


def hostpage(request: Request) -> Answer:
    """Find the host leaves that map a host real address, and what their chains say."""
    view = request.view
    hpa = request.needed("hpa")
    chosen = request.number("vm")
    vms = view.vms() if chosen is None else [view.radix_vm(chosen)]
    found: list[Mapping] = []
    for vm in vms:
        if vm.raw.radix and vm.raw.pgtable:
            found += _mappings(view, vm, hpa)
    document = {
        "schema": SCHEMA,
        "hpa": hex(hpa),
        "mappings": [_document(mapping) for mapping in found],
        "problems": problem_documents(view.problems),
    }
    views: list[RenderableType] = []
    for mapping in found[:MAX_SHOWN]:
        views += _views(mapping)
    if not found:
        views.append(Text(f"no VM of this host maps the host page of {hpa:#x}"))
    if len(found) > MAX_SHOWN:
        views.append(Text(f"{len(found) - MAX_SHOWN} more mappings: --json lists all"))
    views += problem_lines(view.problems)
    return Answer(document, tuple(views), len(found))


def _mappings(view: KernelView, vm: VmAt, hpa: int) -> Iterator[Mapping]:
    root = root_of(vm.raw.pgtable, f"VM {vm.number}")
    path = f"vms[{vm.number}].host_leaves"
    leaves, problems = tree_leaves(view.physical, root.table, ROOT_BITS, path=path)
    view.problems += problems
    nested = dict(view.nested(vm))
    for leaf in _covering(leaves, hpa):
        gfn = leaf.address >> view.kernel.page_shift
        try:
            chain = view.chain(vm, gfn)
        except LookupFailedError:
            yield Mapping(vm, leaf, None, ())
            continue
        standing = tuple(
            _standing(view, nested.get(entry.l1_lpid), entry, leaf, hpa)
            for entry in chain.reading.entries
        )
        yield Mapping(vm, leaf, chain, standing)


def _covering(leaves: Leaves, hpa: int) -> Iterator[Leaf]:
    """Yield the leaves whose host page holds `hpa`, by guest real address."""
    columns = leaves.columns
    masks = (np.uint64(1) << columns["shift"].astype(np.uint64)) - np.uint64(1)
    start = columns["pte"] & np.uint64(PTE_RPN) & ~masks
    for row in columns[start == np.uint64(hpa) & ~masks].tolist():
        yield Leaf(*row)


def _standing(view: KernelView, guest: RawNested | None, entry: Entry, leaf: Leaf, hpa: int) -> str:
    """Say whether the nested guest maps the page now: its shadow tree is walked."""
    if guest is None:
        return "stale: there is no such nested guest"
    root = root_of(guest.shadow_pgtable, f"nested guest {entry.l1_lpid}")
    end = walk(view.physical, root, entry.n_gpa, LINUX).leaf
    if end is None:
        return "stale: no shadow leaf"
    mask = (1 << end.shift) - 1
    if end.real_address & ~mask == hpa & ~mask:
        return f"maps it, {end.permissions}"
    host = leaf.pte & PTE_RPN
    if host <= end.real_address < host + (1 << leaf.shift):
        return "maps another part of the host's huge page"
    return f"stale: its shadow leaf leads to {end.real_address & ~mask:#x}"


def _document(mapping: Mapping) -> Document:
    told: Document = {
        "vm": mapping.vm.number,
        "kvm": hex(mapping.vm.address),
        "gpa": hex(mapping.leaf.address),
        "shift": mapping.leaf.shift,
        "pte": hex(mapping.leaf.pte),
        "chain": None,
    }
    if mapping.chain is not None:
        told["chain"] = chain_document(mapping.chain)
        for entry, standing in zip(told["chain"]["entries"], mapping.standing, strict=True):
            entry["standing"] = standing
    return told


def _views(mapping: Mapping) -> list[RenderableType]:
    leaf = mapping.leaf
    head = Text(
        f"VM {mapping.vm.number} maps it at guest real address {leaf.address:#x} "
        f"(pte {leaf.pte:#018x}, page of 2^{leaf.shift} bytes)"
    )
    if mapping.chain is None:
        return [head, Text("no memslot holds that gfn")]
    entries = mapping.chain.reading.entries
    if not entries:
        return [head, *chain_views(mapping.vm, mapping.chain)]
    table = plain_table("l1_lpid", "n_gpa")
    table.add_column("now")
    for entry, standing in zip(entries, mapping.standing, strict=True):
        table.add_row(str(entry.l1_lpid), hex(entry.n_gpa), standing)
    return [head, table, *problem_lines(mapping.chain.reading.problems)]
