"""A `State` as JSON, schema `nestscope.state/1`. `state_from_json` reads it back.

Other programs read this form, so its names are stable. Addresses and words
are strings `"0x..."`, counts and shifts are numbers, unknown scalars are null.
Writing streams: a guest with millions of leaves never becomes one string, and a set
of rows, a generator here, is never held as text.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from nestscope.decoders.state import (
    SCHEMA,
    Chain,
    Leaf,
    Memslot,
    NestedGuest,
    Problem,
    State,
    Vm,
)

_ROWS_PER_CHUNK = 4096


def to_json(state: State) -> str:
    """Return the State as one JSON document. For large States prefer `iter_json`."""
    return "".join(iter_json(state))


def iter_json(state: State) -> Iterator[str]:
    """Yield the JSON document in pieces of bounded size."""
    yield from _object(
        {
            "schema": SCHEMA,
            "source": {"kind": state.source.kind, "name": state.source.name},
            "kernel": {
                "release": state.kernel.release,
                "page_shift": state.kernel.page_shift,
            },
            "vms": [_vm(vm) for vm in state.vms],
            "problems": [problem_document(problem) for problem in state.problems],
        }
    )


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _vm(vm: Vm) -> dict[str, Any]:
    return {
        "kvm": _hex(vm.kvm),
        "lpid": vm.lpid,
        "radix": vm.radix,
        "mmu_lock_held": vm.mmu_lock_held,
        "l1_ptcr": _hex(vm.l1_ptcr),
        "memslots": [_memslot(memslot) for memslot in vm.memslots],
        "host_leaves": (_leaf("gpa", leaf) for leaf in vm.host_leaves),
        "nested": [_nested(guest) for guest in vm.nested],
        "running": None
        if vm.running is None
        else [{"vcpu_id": each.vcpu_id, "nested": hex(each.nested)} for each in vm.running],
        "orphans": [_nested(guest) for guest in vm.orphans],
    }


def _memslot(memslot: Memslot) -> dict[str, Any]:
    return {
        "id": memslot.id,
        "base_gfn": memslot.base_gfn,
        "npages": memslot.npages,
        "userspace_addr": _hex(memslot.userspace_addr),
        "flags": memslot.flags,
        "rmap_array": _hex(memslot.rmap_array),
        "rmap": (_chain(chain) for chain in memslot.rmap),
    }


def _nested(guest: NestedGuest) -> dict[str, Any]:
    return {
        "l1_lpid": guest.l1_lpid,
        "shadow_lpid": guest.shadow_lpid,
        "refcnt": guest.refcnt,
        "l1_gr_to_hr": _hex(guest.l1_gr_to_hr),
        "process_table": _hex(guest.process_table),
        "shadow_pgtable": _hex(guest.shadow_pgtable),
        "address": _hex(guest.address),
        "shadow_pate": None
        if guest.shadow_pate is None
        else {"dw0": hex(guest.shadow_pate[0]), "dw1": hex(guest.shadow_pate[1])},
        "leaves": (_leaf("n_gpa", leaf) for leaf in guest.leaves),
    }


def _chain(chain: Chain) -> dict[str, Any]:
    return {
        "gfn": chain.gfn,
        "form": chain.form,
        "entries": [
            {"l1_lpid": entry.l1_lpid, "n_gpa": hex(entry.n_gpa)} for entry in chain.entries
        ],
    }


def _leaf(address_name: str, leaf: Leaf) -> dict[str, Any]:
    return {address_name: hex(leaf.address), "shift": leaf.shift, "pte": hex(leaf.pte)}


def problem_document(problem: Problem) -> dict[str, Any]:
    """Return what could not be read as the object that every document lists."""
    told = {"path": problem.path, "message": problem.message, "address": _hex(problem.address)}
    if problem.kind is not None:
        told["kind"] = problem.kind
    if problem.word is not None:
        told["word"] = hex(problem.word)
    return told


def _value(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from _object(value)
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            if number:
                yield ", "
            yield from _value(item)
        yield "]"
    elif isinstance(value, Iterator):
        yield from _rows(value)
    else:
        yield json.dumps(value)


def _object(members: Mapping[str, Any]) -> Iterator[str]:
    yield "{"
    for number, (name, value) in enumerate(members.items()):
        yield f"{', ' if number else ''}{json.dumps(name)}: "
        yield from _value(value)
    yield "}"


def _rows(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield "["
    separator = ""
    while chunk := list(islice(rows, _ROWS_PER_CHUNK)):
        yield separator + json.dumps(chunk)[1:-1]
        separator = ", "
    yield "]"
