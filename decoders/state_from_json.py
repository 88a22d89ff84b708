"""A `State` from its JSON form, schema `nestscope.state/1` (see `state_json`).

The document may come from anywhere: what it says is checked member by member, so that
a State that was read is one that everything else can work with.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    SCHEMA,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Running,
    Source,
    State,
    Vm,
)

_FORMS = {"single": FORM_SINGLE, "list": FORM_LIST}
_PAGE_SHIFTS = range(12, 25)
_SHIFTS = range(64)
_L1_LPIDS = range(1 << 16)
_WORDS = range(1 << 64)
_NUMBERS = range(-(1 << 63), 1 << 64)
"""A member of a structure, signed or not."""


class StateFormatError(NestscopeError):
    """The JSON is not a State of the schema that this version reads."""


def from_json(text: str) -> State:
    """Read a State back.

    Raises:
        StateFormatError: if the text is not a document of the schema, or a member is
            missing or cannot be what it says.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise StateFormatError(
            f"line {error.lineno} column {error.colno}: this is not JSON: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 5000 brackets
        raise StateFormatError(f"this JSON is not read: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise StateFormatError(f"the schema is {schema!r}, this version reads {SCHEMA!r}")
    try:
        return _state(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateFormatError(
            f"the document says {SCHEMA} but a member is missing or of a wrong kind: {error!r}"
        ) from error


def _state(document: Mapping[str, Any]) -> State:
    source, kernel = document["source"], document["kernel"]
    shift = kernel["page_shift"]
    return State(
        source=Source(_text(source["kind"]), _text(source["name"])),
        kernel=KernelInfo(
            None if kernel["release"] is None else _text(kernel["release"]),
            None if shift is None else _number(shift, _PAGE_SHIFTS),
        ),
        vms=tuple(_vm(vm) for vm in document["vms"]),
        problems=tuple(_problem(item) for item in document["problems"]),
    )


def _problem(item: Mapping[str, Any]) -> Problem:
    kind = item.get("kind")
    return Problem(
        _text(item["path"]),
        _text(item["message"]),
        _word_or_none(item["address"]),
        None if kind is None else _text(kind),
        _word_or_none(item.get("word")),
    )


def _vm(item: Mapping[str, Any]) -> Vm:
    return Vm(
        kvm=_word(item["kvm"]),
        lpid=_number_or_none(item["lpid"]),
        radix=_flag(item["radix"]),
        mmu_lock_held=_flag(item["mmu_lock_held"]),
        l1_ptcr=_word_or_none(item["l1_ptcr"]),
        memslots=tuple(_memslot(memslot) for memslot in item["memslots"]),
        host_leaves=_leaves("gpa", item["host_leaves"]),
        nested=tuple(_nested(guest) for guest in item["nested"]),
        running=_running(item.get("running")),
        orphans=tuple(_nested(guest) for guest in item.get("orphans", ())),
    )


def _running(rows: Iterable[Mapping[str, Any]] | None) -> tuple[Running, ...] | None:
    """Documents of before this member say nothing of it, so it is unknown there."""
    if rows is None:
        return None
    return tuple(Running(_number(row["vcpu_id"]), _word(row["nested"])) for row in rows)


def _memslot(item: Mapping[str, Any]) -> Memslot:
    return Memslot(
        id=_number(item["id"]),
        base_gfn=_number(item["base_gfn"], _WORDS),
        npages=_number(item["npages"], _WORDS),
        userspace_addr=_word_or_none(item["userspace_addr"]),
        flags=_number_or_none(item["flags"]),
        rmap_array=_word_or_none(item["rmap_array"]),
        rmap=_chains(item["rmap"]),
    )


def _chains(rows: Iterable[Mapping[str, Any]]) -> Chains:
    chains = Chains.build(
        (
            _number(chain["gfn"], _WORDS),
            _FORMS[chain["form"]],
            [
                (_number(entry["l1_lpid"], _L1_LPIDS), _word(entry["n_gpa"]))
                for entry in chain["entries"]
            ],
        )
        for chain in rows
    )
    if (np.diff(chains.index["gfn"]) == 0).any():
        raise ValueError("a gfn has two chains")
    return chains


def _nested(item: Mapping[str, Any]) -> NestedGuest:
    pate = item.get("shadow_pate")
    return NestedGuest(
        l1_lpid=_number(item["l1_lpid"]),
        shadow_lpid=_number_or_none(item["shadow_lpid"]),
        refcnt=_number_or_none(item["refcnt"]),
        l1_gr_to_hr=_word_or_none(item["l1_gr_to_hr"]),
        process_table=_word_or_none(item["process_table"]),
        shadow_pgtable=_word_or_none(item["shadow_pgtable"]),
        leaves=_leaves("n_gpa", item["leaves"]),
        address=_word_or_none(item.get("address")),
        shadow_pate=None if pate is None else (_word(pate["dw0"]), _word(pate["dw1"])),
    )


def _leaves(address_name: str, rows: Iterable[Mapping[str, Any]]) -> Leaves:
    leaves = Leaves.build(
        (_word(row[address_name]), _number(row["shift"], _SHIFTS), _word(row["pte"]))
        for row in rows
    )
    if (np.diff(leaves.columns["address"]) == 0).any():
        raise ValueError("an address has two leaves")
    return leaves


def _word(text: str) -> int:
    return _number(int(text, 16), _WORDS)


def _word_or_none(text: str | None) -> int | None:
    return None if text is None else _word(text)


def _number(value: int, allowed: range = _NUMBERS) -> int:
    # type(): True and 16.0 are in a range, too.
    if type(value) is not int or value not in allowed:
        raise ValueError(f"{value!r} is not a number from {allowed[0]} to {allowed[-1]}")
    return value


def _number_or_none(value: int | None) -> int | None:
    return None if value is None else _number(value)


def _flag(value: bool | None) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true, false or null")
    return value


def _text(value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
