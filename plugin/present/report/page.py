"""The report as one HTML page: no network, no file beside it, searchable.

What the page says is gathered here as plain values; `page.html` lays it out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import jinja2
from markupsafe import Markup, escape

from nestscope.decoders.audit.audit import RULES
from nestscope.decoders.audit.finding import ERROR, INFO, WARNING
from nestscope.decoders.compare import Difference
from nestscope.decoders.state import Leaves, Memslot, NestedGuest, State, Vm
from nestscope.decoders.words.pte import PTE_C, PTE_R, permissions, real_address
from nestscope.plugin.present.findings import FINDING_MEMBERS
from nestscope.plugin.present.heatmap import LENGTHS, length_class
from nestscope.plugin.present.occupancy import occupancy
from nestscope.plugin.present.units import count, counted, size

_MAP_COLUMNS = 128
_MAP_ROWS = 32


@dataclass(frozen=True)
class Limits:
    """How many rows of each kind are listed; the page says how many it left out.

    `entries` is for each chain, `findings` for each rule, `leaves` for each tree.
    """

    chains: int = 2000
    entries: int = 64
    leaves: int = 1000
    findings: int = 200
    differences: int = 1000


def report_page(
    state: State,
    findings: Sequence[dict[str, Any]],
    *,
    made: str,
    differences: Sequence[Difference] | None = None,
    other: str = "",
    limits: Limits | None = None,
) -> str:
    """Return the page.

    `findings` are those of the document that `check --json` prints; `differences`
    those to a second source named `other`; `made` says when and by what.
    """
    limits = limits or Limits()
    shift = state.kernel.page_shift
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nestscope.plugin.present", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["grouped"] = count
    environment.filters["marked"] = _marked
    return environment.get_template("page.html").render(
        state=state,
        page_size="unknown" if shift is None else size(1 << shift),
        made=made,
        verdict=_verdict(findings),
        rules=[_rule(id_, list(same), limits) for id_, same in _by_rule(findings)],
        vms=[_vm(vm, shift, limits) for vm in state.vms],
        differences=None if differences is None else list(differences[: limits.differences]),
        more_differences=max(0, len(differences or ()) - limits.differences),
        other=other,
        length_names=_length_names(),
        style=_own_file("page.css"),
        script=_own_file("page.js"),
    )


def _own_file(name: str) -> Markup:
    """Return a file of this folder, which needs no escaping."""
    return Markup((files("nestscope.plugin.present") / "report" / name).read_text("utf-8"))


def _marked(text: str) -> Markup:
    """Return text with its `names` set as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts)
    )


def _verdict(findings: Sequence[dict[str, Any]]) -> str:
    """Return how many findings of each severity there are."""
    kinds = Counter(finding["severity"] for finding in findings)
    told = [
        counted(kinds[ERROR], "error"),
        counted(kinds[WARNING], "warning"),
        f"{count(kinds[INFO])} worth knowing",
    ]
    return ", ".join(told)


def _by_rule(findings: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    return groupby(findings, key=itemgetter("rule"))


def _rule(id_: str, findings: list[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    """Return the findings of one rule, with its name and what comes of it."""
    rule = next((each for each in RULES if each.id == id_), None)
    name = "" if rule is None else rule.name
    return {
        "id": id_,
        "name": name,
        "severity": findings[0]["severity"],
        "consequence": "" if rule is None else rule.consequence,
        "findings": [
            {"message": each["message"].removeprefix(f"{name}: "), "place": _where(each)}
            for each in findings[: limits.findings]
        ],
        "more": max(0, len(findings) - limits.findings),
    }


def _where(finding: dict[str, Any]) -> str:
    """Return the members that say where a finding is."""
    shown = {name: finding[name] for name in FINDING_MEMBERS if name in finding}
    if "gfn" in shown:
        shown["gfn"] = hex(shown["gfn"])
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _length_names() -> list[str]:
    ends = [following - 1 for following in LENGTHS[1:]]
    names = [
        str(start) if start == end else f"{start} to {end}"
        for start, end in zip(LENGTHS, ends, strict=False)
    ]
    return [*names, f"{LENGTHS[-1]} and more"]


def _vm(vm: Vm, shift: int | None, limits: Limits) -> dict[str, Any]:
    return {
        "kvm": hex(vm.kvm),
        "lpid": _known(vm.lpid),
        "mode": {True: "radix", False: "HPT", None: "unknown MMU mode"}[vm.radix],
        "in_transition": bool(vm.mmu_lock_held),
        "l1_ptcr": _hex(vm.l1_ptcr),
        "memslots": [_memslot(memslot, shift, limits) for memslot in vm.memslots],
        "nested": [_nested(guest, limits) for guest in vm.nested],
        "host": _tree("host tree (arch.pgtable)", vm.host_leaves, limits),
    }


def _memslot(memslot: Memslot, shift: int | None, limits: Limits) -> dict[str, Any]:
    chains = list(islice(memslot.rmap, limits.chains))
    return {
        "id": memslot.id,
        "start": _place(memslot.base_gfn, shift),
        "base_gfn": hex(memslot.base_gfn),
        "npages": count(memslot.npages),
        "size": "unknown" if shift is None else size(memslot.npages << shift),
        "flags": _hex(memslot.flags),
        "userspace_addr": _hex(memslot.userspace_addr),
        "rmap_array": _hex(memslot.rmap_array),
        "chain_count": count(len(memslot.rmap)),
        "entry_count": count(len(memslot.rmap.entries)),
        "map": _map(memslot, shift),
        "chains": [
            {
                "gfn": hex(chain.gfn),
                "place": _place(chain.gfn, shift),
                "form": chain.form,
                "entries": [
                    {"l1_lpid": entry.l1_lpid, "n_gpa": hex(entry.n_gpa)}
                    for entry in chain.entries[: limits.entries]
                ],
                "more": max(0, len(chain.entries) - limits.entries),
            }
            for chain in chains
        ],
        "more_chains": len(memslot.rmap) - len(chains),
    }


def _map(memslot: Memslot, shift: int | None) -> dict[str, Any]:
    """Return the heat map: only cells with an entry are drawn, on an empty ground."""
    cells = occupancy(memslot, _MAP_COLUMNS * _MAP_ROWS)
    pages = "1 page" if cells.pages == 1 else f"{count(cells.pages)} pages"
    drawn = [
        {
            "x": cell % _MAP_COLUMNS,
            "y": cell // _MAP_COLUMNS,
            "length": length_class(int(cells.longest[cell])),
            "opacity": f"{0.35 + 0.65 * cells.share(cell):.2f}",
            "title": f"{_place(cells.first_gfn(cell), shift)}: {count(int(cells.chains[cell]))} "
            f"chains, {count(int(cells.entries[cell]))} entries, the longest has "
            f"{count(int(cells.longest[cell]))}",
        }
        for cell in cells.chains.nonzero()[0].tolist()
    ]
    return {
        "cell": pages if shift is None else f"{pages} ({size(cells.pages << shift)})",
        "columns": min(len(cells), _MAP_COLUMNS),
        "rows": -(-len(cells) // _MAP_COLUMNS),
        "cells": drawn,
    }


def _nested(guest: NestedGuest, limits: Limits) -> dict[str, Any]:
    return {
        "l1_lpid": guest.l1_lpid,
        "shadow_lpid": _known(guest.shadow_lpid),
        "refcnt": _known(guest.refcnt),
        "l1_gr_to_hr": _hex(guest.l1_gr_to_hr),
        "process_table": _hex(guest.process_table),
        "shadow_pgtable": _hex(guest.shadow_pgtable),
        "tree": _tree(f"shadow tree of nested guest {guest.l1_lpid}", guest.leaves, limits),
    }


def _tree(title: str, leaves: Leaves, limits: Limits) -> dict[str, Any]:
    return {
        "title": title,
        "count": count(len(leaves)),
        "leaves": list(_leaves(islice(leaves, limits.leaves))),
        "more": max(0, len(leaves) - limits.leaves),
    }


def _leaves(leaves: Iterable[tuple[int, int, int]]) -> Iterator[dict[str, str]]:
    for address, shift, pte in leaves:
        marks = "R" * bool(pte & PTE_R) + "C" * bool(pte & PTE_C)
        yield {
            "address": hex(address),
            "size": size(1 << shift),
            "pte": f"{pte:#018x}",
            "real": hex(real_address(pte)),
            "allows": f"{permissions(pte)} {marks}",
        }


def _place(gfn: int, shift: int | None) -> str:
    return f"gfn {gfn:#x}" if shift is None else hex(gfn << shift)


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _hex(value: int | None) -> str:
    return "unknown" if value is None else hex(value)
