"""Rules about what the readers stumbled over: words that no kernel leaves like that.

The readers keep what is readable and note the rest as problems of a stable kind. What
could not be read at all is no finding: it is among the problems.
"""

import re
from collections.abc import Iterator, Sequence

from nestscope.decoders.audit.finding import WARNING, Found, rule
from nestscope.decoders.audit.view import StateView, VmView, slot_of
from nestscope.decoders.state import NestedGuest, Problem
from nestscope.decoders.words.rmap import l1_lpid, n_gpa

_LEADS_THERE = "kernel address of the word that leads there"
_REST_IS_LOST = (
    "The kernel's walk of the chain goes wrong or ends there: what comes after is never "
    "unmapped, and the nested guest keeps those pages."
)
_GUEST = "kernel address of `struct kvm_nested_guest`"


@rule(
    "I5.reserved-bits",
    "reserved bits of an entry are 0",
    consequence="The kernel masks them in some places and not in others: the entry is not "
    "recognised as a duplicate, or bit 0 of a node makes it look like a tail.",
    address="kernel address of the word with the bits",
)
def reserved_bits_are_zero(state: StateView) -> Iterator[Found]:
    """Bits 1 to 11 of an rmap word, and bits 0 to 11 of a node's entry, are 0."""
    yield from _chain_problems(state, "chain-reserved", entry=True)


@rule(
    "I5.node-unaligned",
    "list nodes are aligned",
    consequence="The pointer was overwritten. " + _REST_IS_LOST,
    address=_LEADS_THERE,
)
def nodes_are_aligned(state: StateView) -> Iterator[Found]:
    """A pointer to a `struct rmap_nested` is a multiple of 8 bytes."""
    yield from _chain_problems(state, "chain-unaligned")


@rule(
    "I5.node-wild",
    "list nodes are in the linear map",
    consequence="The pointer was overwritten: the kernel follows it to memory that is no list, "
    "or faults. " + _REST_IS_LOST,
    address=_LEADS_THERE,
)
def nodes_are_in_linear_map(state: StateView) -> Iterator[Found]:
    """A pointer to a `struct rmap_nested` is in the linear map: it comes from `kzalloc`."""
    yield from _chain_problems(state, "chain-wild")


@rule(
    "I5.lost-tail",
    "a list ends in a single entry",
    consequence="The last entry is lost. " + _REST_IS_LOST,
    address=_LEADS_THERE,
)
def list_has_its_tail(state: StateView) -> Iterator[Found]:
    """`list.next` of the last node is a word with bit 0 set, and never NULL.

    While an insertion is under way it is NULL for a moment; `mmu_lock` is held then.
    """
    yield from _chain_problems(state, "chain-null-next")


@rule(
    "I5.cycle",
    "a list comes to its end",
    consequence="`for_each_nest_rmap_safe` never ends, with `mmu_lock` held: the VM hangs, then "
    "the processors that wait for the lock; on removal, nodes are freed twice.",
    address=_LEADS_THERE,
)
def list_ends(state: StateView) -> Iterator[Found]:
    """No list leads back to one of its nodes."""
    yield from _chain_problems(state, "chain-cycle")


@rule(
    "I6.idr-key",
    "nested guest is kept under its own l1_lpid, in its own VM",
    consequence="A lookup of the l1_lpid of an entry finds another nested guest's tree: its "
    "leaves are cleared in place of the right ones, which stay.",
    address=_GUEST,
)
def idr_key_is_the_guests(state: StateView) -> Iterator[Found]:
    """`l1_lpid` of a nested guest is its key in the idr, and `l1_host` is the VM."""
    for view in state.vms:
        for problem in view.problems:
            if problem.kind not in {"idr-key", "l1-host"}:
                continue
            guest = _guest(problem.path, f"vms[{view.number}].nested", view.vm.nested)
            lpid = None if guest is None else guest.l1_lpid
            message = f"nested guest {lpid}: {problem.message}"
            yield Found(message, view.vm.kvm, l1_lpid=lpid, address=problem.address)


@rule(
    "rmap.long-walk",
    "a chain is short enough to be walked",
    severity=WARNING,
    consequence="Every insertion walks the chain with `mmu_lock` held: all vCPUs of the VM wait.",
    address="kernel address of the word that leads to the rest",
)
def chain_can_be_walked(state: StateView) -> Iterator[Found]:
    """A chain, or all chains together, has no more nodes than the reader follows."""
    yield from _chain_problems(state, "chain-too-long")
    yield from _chain_problems(state, "chain-too-many")


@rule(
    "tree.table-twice",
    "every table has one entry that leads to it",
    consequence="Two ranges of addresses have the same leaves: unmapping one unmaps the other, "
    "and freeing one frees tables that the other still uses; a cycle is never walked to its end.",
    address="physical address of the table",
)
def table_has_one_parent(state: StateView) -> Iterator[Found]:
    """No two entries of a host tree or a shadow tree lead to one table."""
    yield from _tree_problems(state, "table-twice")


@rule(
    "tree.table-size",
    "an entry leads to a table that can be",
    consequence="Hardware raises an interrupt for every address below, or reads the table "
    "somewhere else than the kernel; what is mapped there is lost.",
    address="physical address of the entry",
)
def table_can_be(state: StateView) -> Iterator[Found]:
    """NLS of a directory entry fits the level, and NLB is aligned to the table's size."""
    yield from _tree_problems(state, "table-size")


def _tree_problems(state: StateView, kind: str) -> Iterator[Found]:
    """Yield the trees with problems of a kind; a shadow tree has its nested guest's l1_lpid."""
    for view in state.vms:
        for problem in view.problems:
            if problem.kind != kind:
                continue
            lpid, whose = None, "host tree"
            for name, guests in (("nested", view.vm.nested), ("orphans", view.vm.orphans)):
                guest = _guest(problem.path, f"vms[{view.number}].{name}", guests)
                if guest is not None:
                    lpid = guest.l1_lpid
                    whose = f"shadow tree of nested guest {lpid}"
            message = f"{whose}: {problem.message}"
            yield Found(message, view.vm.kvm, l1_lpid=lpid, address=problem.address)


def _chain_problems(state: StateView, kind: str, *, entry: bool = False) -> Iterator[Found]:
    """Yield the chains with problems of a kind; `entry`: the word is an entry of the rmap."""
    for view in state.vms:
        for problem in view.problems:
            if problem.kind == kind:
                yield _chain(view, problem, entry=entry)


_GFN = re.compile(r"\.rmap\[gfn (\d{1,20})\]$")


def _chain(view: VmView, problem: Problem, *, entry: bool) -> Found:
    slot = slot_of(problem, f"vms[{view.number}]")
    slots = range(len(view.vm.memslots))
    memslot = view.vm.memslots[slot].id if slot is not None and slot in slots else None
    at = _GFN.search(problem.path)
    gfn = None if at is None else int(at[1])
    word = problem.word if entry else None
    return Found(
        problem.message if gfn is None else f"gfn {gfn:#x}: {problem.message}",
        view.vm.kvm,
        memslot,
        gfn,
        None if word is None else l1_lpid(word),
        None if word is None else n_gpa(word),
        problem.address,
    )


def _guest(path: str, prefix: str, guests: Sequence[NestedGuest]) -> NestedGuest | None:
    """Return the nested guest that a path below `prefix` leads to, None if it leads to none."""
    found = re.match(rf"{re.escape(prefix)}\[(\d{{1,9}})\]", path)
    at = len(guests) if found is None else int(found[1])
    return guests[at] if at < len(guests) else None
