"""A two-stage walk as a tree for the terminal, and as JSON (`nestscope.walk/1`)."""

from typing import Any

from rich.text import Text
from rich.tree import Tree

from nestscope.decoders.compare import describe_chain
from nestscope.decoders.radix import Step, Walk
from nestscope.decoders.two_stage import TwoStageWalk
from nestscope.decoders.words.pde import next_bits, next_table
from nestscope.plugin.present.units import size

SCHEMA = "nestscope.walk/1"


def walk_tree(found: TwoStageWalk) -> Tree:
    """Return every stage with every level: table, index, entry, word, what it says."""
    if found.nested is None:
        tree = Tree(f"guest real address {found.address:#x}", highlight=False)
    else:
        tree = Tree(
            f"nested real address {found.address:#x} of nested guest {found.nested.l1_lpid}",
            highlight=False,
        )
    if found.guest is not None:
        _stage(tree, "guest's tree: nested real to guest real (l1_gr_to_hr)", found.guest)
    if found.host is not None:
        _stage(tree, "host's tree: guest real to host (arch.pgtable)", found.host)
    elif found.nested is not None:
        tree.add(Text("host's tree: not reached", style="dim"))
    if found.shadow is not None:
        _stage(tree, "shadow tree: nested real to host (shadow_pgtable)", found.shadow)
        tree.add(_verdict(found))
    if found.host is not None and found.host.leaf is not None:
        tree.add(Text(f"rmap of the guest page: {describe_chain(found.chain)}"))
    return tree


def _stage(tree: Tree, title: str, walk: Walk) -> None:
    stage = tree.add(Text(title, style="bold"))
    for step in walk.steps:
        stage.add(Text(_level(step)))
    if walk.leaf is not None:
        leaf = walk.leaf
        flags = "R" * leaf.referenced + "C" * leaf.changed or "neither R nor C"
        stage.add(
            Text(
                f"{leaf.real_address:#x}, page of {size(1 << leaf.shift)}, "
                f"{leaf.permissions}, {flags}",
                style="green",
            )
        )
    else:
        stage.add(Text(f"fault: {walk.fault}", style="red"))


def _level(step: Step) -> str:
    place = f"level {step.level} [{step.index:#x}] at {step.entry_address:#x}: {step.word:#018x}"
    if step.kind == "table":
        return f"{place} table {next_table(step.word):#x}, {next_bits(step.word)} bits"
    return f"{place} {step.kind}"


def _verdict(found: TwoStageWalk) -> Text:
    agrees = found.shadow_agrees
    if agrees is None:
        return Text("the shadow tree cannot be compared with the two stages", style="dim")
    if agrees:
        return Text("the shadow tree leads where the two stages lead", style="green")
    return Text(
        "the shadow tree leads elsewhere: legal until the guest invalidates (tlbie)",
        style="yellow",
    )


def walk_document(found: TwoStageWalk) -> dict[str, Any]:
    """Return the document that `walk --json` prints."""
    return {
        "schema": SCHEMA,
        "kvm": hex(found.vm.kvm),
        "l1_lpid": None if found.nested is None else found.nested.l1_lpid,
        "address": hex(found.address),
        "guest": _walk(found.guest),
        "host": _walk(found.host),
        "shadow": _walk(found.shadow),
        "shadow_agrees": found.shadow_agrees,
        "rmap": None
        if found.chain is None
        else {
            "gfn": found.chain.gfn,
            "form": found.chain.form,
            "entries": [
                {"l1_lpid": entry.l1_lpid, "n_gpa": hex(entry.n_gpa)}
                for entry in found.chain.entries
            ],
        },
    }


def _walk(walk: Walk | None) -> dict[str, Any] | None:
    if walk is None:
        return None
    leaf = walk.leaf
    return {
        "steps": [
            {
                "level": step.level,
                "table": hex(step.table),
                "bits": step.bits,
                "index": step.index,
                "entry_address": hex(step.entry_address),
                "word": hex(step.word),
                "kind": step.kind,
            }
            for step in walk.steps
        ],
        "leaf": None
        if leaf is None
        else {
            "pte": hex(leaf.pte),
            "shift": leaf.shift,
            "real_address": hex(leaf.real_address),
            "permissions": str(leaf.permissions),
            "referenced": leaf.referenced,
            "changed": leaf.changed,
        },
        "fault": None
        if walk.fault is None
        else {"kind": type(walk.fault).__name__, "message": str(walk.fault)},
    }
