"""A `State` as JSON, schema `nestscope.state/1`, and back.

Other programs read this form, so its names are stable. Addresses and words
are strings `"0x..."`, counts and shifts are numbers, unknown scalars are null.
Writing streams: a guest with millions of leaves never becomes one string.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    SCHEMA,
    Chain,
    Chains,
    KernelInfo,
    Leaf,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Running,
    Source,
    State,
    Vm,
)

_ROWS_PER_CHUNK = 4096
_FORMS = {"single": FORM_SINGLE, "list": FORM_LIST}


class StateFormatError(NestscopeError):
    """The JSON is not a State of the schema that this version reads."""


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


def from_json(text: str) -> State:
    """Read a State back.

    Raises:
        StateFormatError: if the text is not a document of the schema.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise StateFormatError(
            f"line {error.lineno} column {error.colno}: this is not JSON: {error.msg}"
        ) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise StateFormatError(f"the schema is {schema!r}, this version reads {SCHEMA!r}")
    try:
        return State(
            source=Source(document["source"]["kind"], document["source"]["name"]),
            kernel=KernelInfo(document["kernel"]["release"], document["kernel"]["page_shift"]),
            vms=tuple(_read_vm(vm) for vm in document["vms"]),
            problems=tuple(
                Problem(
                    item["path"],
                    item["message"],
                    _number(item["address"]),
                    item.get("kind"),
                    _number(item.get("word")),
                )
                for item in document["problems"]
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateFormatError(
            f"the document says {SCHEMA} but a member is missing or of a wrong kind: {error!r}"
        ) from error


# Writing. A set of rows is a generator, so that it is never held as text.


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


# Reading.


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def _read_vm(item: Mapping[str, Any]) -> Vm:
    return Vm(
        kvm=int(item["kvm"], 16),
        lpid=item["lpid"],
        radix=item["radix"],
        mmu_lock_held=item["mmu_lock_held"],
        l1_ptcr=_number(item["l1_ptcr"]),
        memslots=tuple(_read_memslot(memslot) for memslot in item["memslots"]),
        host_leaves=_read_leaves("gpa", item["host_leaves"]),
        nested=tuple(_read_nested(guest) for guest in item["nested"]),
        running=_read_running(item.get("running")),
        orphans=tuple(_read_nested(guest) for guest in item.get("orphans", ())),
    )


def _read_running(rows: Iterable[Mapping[str, Any]] | None) -> tuple[Running, ...] | None:
    """Documents of before this member say nothing of it, so it is unknown there."""
    if rows is None:
        return None
    return tuple(Running(row["vcpu_id"], int(row["nested"], 16)) for row in rows)


def _read_memslot(item: Mapping[str, Any]) -> Memslot:
    return Memslot(
        id=item["id"],
        base_gfn=item["base_gfn"],
        npages=item["npages"],
        userspace_addr=_number(item["userspace_addr"]),
        flags=item["flags"],
        rmap_array=_number(item["rmap_array"]),
        rmap=Chains.build(
            (
                chain["gfn"],
                _FORMS[chain["form"]],
                [(entry["l1_lpid"], int(entry["n_gpa"], 16)) for entry in chain["entries"]],
            )
            for chain in item["rmap"]
        ),
    )


def _read_nested(item: Mapping[str, Any]) -> NestedGuest:
    pate = item.get("shadow_pate")
    return NestedGuest(
        l1_lpid=item["l1_lpid"],
        shadow_lpid=item["shadow_lpid"],
        refcnt=item["refcnt"],
        l1_gr_to_hr=_number(item["l1_gr_to_hr"]),
        process_table=_number(item["process_table"]),
        shadow_pgtable=_number(item["shadow_pgtable"]),
        leaves=_read_leaves("n_gpa", item["leaves"]),
        address=_number(item.get("address")),
        shadow_pate=None if pate is None else (int(pate["dw0"], 16), int(pate["dw1"], 16)),
    )


def _read_leaves(address_name: str, rows: Iterable[Mapping[str, Any]]) -> Leaves:
    return Leaves.build(
        (int(row[address_name], 16), row["shift"], int(row["pte"], 16)) for row in rows
    )
