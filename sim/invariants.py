"""The invariants I1 to I6 of the nested rmap, as rules over a `State`.

Shared by the model and by what is read from real memory. An rmap entry without a
shadow leaf is legal (stale): the kernel never removes a single entry. A shadow leaf
without an entry never is: nothing would find it when its host page goes away.

What the State does not know is never called broken. A gap in the rmap or in the host
tree (a `Problem` of the State) suspends the rules that would read it as an absence.
A VM whose `mmu_lock` is held is in transition and not judged at all.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from nestscope.decoders.state import FORM_LIST, FORM_SINGLE, NestedGuest, State, Vm
from nestscope.decoders.words.pte import PTE_C, PTE_R
from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT
from nestscope.sim.constants import EAA_RWX, KVM_MAX_NESTED_GUESTS_SHIFT
from nestscope.sim.invariant_view import Flags, VmView, views_of
from nestscope.sim.unmap import KERNEL_RPN

MAX_TOLD = 1000
"""Violations of one rule that are listed; one more says that there are others."""

ERROR = "error"
INFO = "info"


class Violation(NamedTuple):
    """A broken rule. Members that do not apply are None (names as in `check --json`).

    `rule`: stable id ("I1"), `name`: what it says in few words. `severity`: "error", or
    "info" where legal hardware explains it. `kvm`: address of `struct kvm`; `memslot`:
    its id; `gfn`: absolute; `n_gpa`: bytes; `address`: host real address of the page
    that a shadow leaf maps, or kernel address of an rmap word.
    """

    rule: str
    name: str
    severity: str
    message: str
    kvm: int | None = None
    memslot: int | None = None
    gfn: int | None = None
    l1_lpid: int | None = None
    n_gpa: int | None = None
    address: int | None = None


class Rule(NamedTuple):
    """A rule: stable id, readable name, and what finds its violations."""

    id: str
    name: str
    check: Callable[[Sequence[VmView]], Iterator[Violation]]


def violations(
    state: State,
    *,
    rc_by_hardware: bool | None = None,
    orphans: Sequence[tuple[int, NestedGuest]] = (),
) -> list[Violation]:
    """Return every broken invariant, rule by rule.

    `rc_by_hardware`: the hardware writes R and C itself, into the shadow leaf only
    (QEMU up to 8.1). The host cannot keep its leaf in step there, so I4 does not hold
    and is not checked. None: not known; a broken I4 is then only worth knowing ("info").

    `orphans`: `(address of struct kvm, nested guest)` of nested guests that a vCPU uses
    (`vcpu->arch.nested`) and the idr no longer has. Hardware still walks their shadow
    trees, so the rules hold for them, too.
    """
    views = views_of(state, orphans)
    found: list[Violation] = []
    for rule in RULES:
        if rule.id == "I4" and rc_by_hardware:
            continue
        told = rule.check(views)
        found += islice(told, MAX_TOLD)
        if next(told, None) is not None:
            found.append(Violation(rule.id, rule.name, ERROR, "further ones are not listed"))
    if rc_by_hardware is None:
        return [v._replace(severity=INFO) if v.rule == "I4" else v for v in found]
    return found


def vms_in_transition(state: State) -> tuple[Vm, ...]:
    """Return the VMs that are not judged because their mmu_lock is held."""
    return tuple(vm for vm in state.vms if vm.mmu_lock_held)


def leaf_has_entry(views: Sequence[VmView]) -> Iterator[Violation]:
    """I1: every shadow leaf has an entry `(l1_lpid, n_gpa)` in some chain.

    Without one, `kvmhv_remove_nest_rmap_range` cannot find the leaf.
    """
    for view in views:
        if not view.rmap_gaps:
            named = view.leaves_with(np.ones(len(view.pairs.leaf), np.bool_))
            yield from _leaves(view, I1, ~named, "no chain of the VM has an entry for it")


def leaf_maps_host_page(views: Sequence[VmView]) -> Iterator[Violation]:
    """I2: the host leaf of the entry's gfn is there and covers the shadow leaf's page.

    The comparison is the kernel's own (`kvmhv_remove_nest_rmap`). Where it fails for
    every entry of a leaf, unmapping the host leaf leaves the shadow leaf behind.
    """
    for view in views:
        if view.rmap_gaps or view.host_gaps:
            continue
        pairs = view.pairs
        named = view.leaves_with(np.ones(len(pairs.leaf), np.bool_))
        broken = named & ~view.leaves_with(pairs.same_page)
        hosted = view.leaves_with(pairs.host != 0)
        yield from _leaves(view, I2, broken & ~hosted, "the host has unmapped the guest page")
        yield from _leaves(view, I2, broken & hosted, "the host maps the guest page elsewhere")


def leaf_rights_within_host(views: Sequence[VmView]) -> Iterator[Violation]:
    """I3: read, write and execute of a shadow leaf are all in its host leaf."""
    for view in views:
        broken = _exceeds(view, EAA_RWX)
        yield from _leaves(view, I3, broken, "it permits what the host leaf does not")


def leaf_rc_within_host(views: Sequence[VmView]) -> Iterator[Violation]:
    """I4: C of a shadow leaf implies C of its host leaf, and R implies R.

    Otherwise a dirty page is missing from the next dirty log, or a page in use looks idle.
    """
    for view in views:
        broken = _exceeds(view, PTE_R | PTE_C)
        yield from _leaves(view, I4, broken, "it has R or C where the host leaf has not")


def chain_is_well_formed(views: Sequence[VmView]) -> Iterator[Violation]:
    """I5: no duplicate in a chain, one entry as `single`, more as `list`, no 0 before the tail.

    Reserved bits, cycles and wild pointers are problems of the reader already.
    """
    for view in views:
        for number in range(len(view.vm.memslots)):
            yield from _chain_forms(view, number)
            yield from _chain_entries(view, number)


def nested_guest_is_consistent(views: Sequence[VmView]) -> Iterator[Violation]:
    """I6: nested guests fit their idr and share nothing; every vCPU's is the idr's.

    LPIDs are the host's, so they are unique over all VMs. The host's partition table is
    not part of the State, so `partition_tb[shadow_lpid]` is not looked at.
    """
    owners: dict[int, str] = {0: "the host itself"}
    roots: dict[int, str] = {}
    for view in views:
        if view.vm.lpid is not None:
            owners.setdefault(view.vm.lpid, f"VM {view.vm.kvm:#x}")
    for view in views:
        keys = {guest.l1_lpid for guest in view.vm.nested}
        for number, guest in enumerate(view.guests):
            who = f"nested guest {guest.l1_lpid}"
            if number >= len(view.vm.nested):
                now = "another one" if guest.l1_lpid in keys else "none"
                yield _guest(view, guest, f"a vCPU uses {who}; the idr has {now} of that name")
            elif guest.refcnt is not None and guest.refcnt < 1:
                yield _guest(view, guest, f"{who} is in the idr with refcnt {guest.refcnt}")
            if not 0 <= guest.l1_lpid < 1 << KVM_MAX_NESTED_GUESTS_SHIFT:
                yield _guest(view, guest, f"{who}: no entry can hold this LPID")
            for value, known, what in (
                (guest.shadow_lpid, owners, "shadow_lpid"),
                (guest.shadow_pgtable, roots, "shadow_pgtable"),
            ):
                if value is None:
                    continue
                if value in known:
                    message = f"{what} {value:#x} of {who} is also that of {known[value]}"
                    yield _guest(view, guest, message)
                known.setdefault(value, f"{who} of VM {view.vm.kvm:#x}")


I1, I2, I3, I4, I5, I6 = RULES = (
    Rule("I1", "shadow leaf has an rmap entry", leaf_has_entry),
    Rule("I2", "shadow leaf maps the host leaf's page", leaf_maps_host_page),
    Rule("I3", "shadow rights within the host leaf's", leaf_rights_within_host),
    Rule("I4", "shadow R and C within the host leaf's", leaf_rc_within_host),
    Rule("I5", "chain is well-formed", chain_is_well_formed),
    Rule("I6", "nested guest is consistent", nested_guest_is_consistent),
)


def _exceeds(view: VmView, bits: int) -> Flags:
    """Return the leaves with a bit of `bits` that none of their host leaves has.

    Several host leaves are possible: a stale entry whose page has become the same.
    """
    pairs = view.pairs
    if view.rmap_gaps or view.host_gaps:
        return np.zeros(len(view.leaves.word), np.bool_)
    missing = view.leaves.pte[pairs.leaf] & ~pairs.host & np.uint64(bits)
    within = view.leaves_with(pairs.same_page & (missing == 0))
    return view.leaves_with(pairs.same_page) & ~within


def _leaves(view: VmView, rule: Rule, broken: Flags, why: str) -> Iterator[Violation]:
    """Yield a violation for each shadow leaf that is `broken`."""
    leaves, pairs = view.leaves, view.pairs
    for at in np.flatnonzero(broken).tolist():
        guest = view.guests[leaves.guest[at]]
        n_gpa, pte = int(leaves.address[at]), int(leaves.pte[at])
        # Pairs are ordered by leaf; the first one says where the leaf belongs.
        first = int(np.searchsorted(pairs.leaf, at))
        host, slot, gfn = "none", None, None
        if first < len(pairs.leaf) and pairs.leaf[first] == at:
            entry = pairs.entry[first]
            slot = view.vm.memslots[view.entries.slot[entry]].id
            gfn = int(view.entries.gfn[entry])
            host = f"{int(pairs.host[first]):#018x}" if pairs.host[first] else "no leaf"
        where = "" if gfn is None else f" (gfn {gfn:#x}, host {host})"
        yield Violation(
            rule.id,
            rule.name,
            ERROR,
            f"nested guest {guest.l1_lpid} maps {n_gpa:#x} with {pte:#018x}: {why}{where}",
            view.vm.kvm,
            slot,
            gfn,
            guest.l1_lpid,
            n_gpa,
            pte & KERNEL_RPN & ~((1 << view.page_shift) - 1),
        )


def _chain_forms(view: VmView, number: int) -> Iterator[Violation]:
    if view.gap_slots & {number, -1}:
        return  # a list that could not be read to its end may look like anything
    index = view.vm.memslots[number].rmap.index
    wrong = np.where(index["form"] == FORM_SINGLE, index["count"] != 1, index["count"] < 2)
    for at in np.flatnonzero(wrong).tolist():
        form = "list" if int(index["form"][at]) == FORM_LIST else "single"
        yield _chain(view, number, at, f"a {form} with {int(index['count'][at])} entries")


def _chain_entries(view: VmView, number: int) -> Iterator[Violation]:
    rmap = view.vm.memslots[number].rmap
    count = rmap.index["count"].astype(np.int64)
    words = view.entries.word[view.entries.slot == number]
    chain = np.repeat(np.arange(len(count)), count)
    position = np.arange(len(words)) - np.repeat(np.cumsum(count) - count, count)
    ends_early = (words == 0) & (position < np.repeat(count, count) - 1)
    for at in np.flatnonzero(ends_early).tolist():
        message = (
            "an entry that packs to 0 (l1_lpid 0, n_gpa 0) is no tail: "
            "the kernel's walk of the chain ends there"
        )
        yield _chain(view, number, int(chain[at]), message, 0)
    low = np.uint64((1 << view.page_shift) - 1)
    for at in np.flatnonzero(words & low != 0).tolist():
        message = "the entry's n_gpa is not the start of a page"
        yield _chain(view, number, int(chain[at]), message, int(words[at]))
    order = np.lexsort((words, chain))
    again = (np.diff(chain[order]) == 0) & (np.diff(words[order]) == 0)
    for at in np.unique(order[1:][again]).tolist():
        message = "the chain has an entry twice"
        yield _chain(view, number, int(chain[at]), message, int(words[at]))


def _chain(view: VmView, number: int, at: int, message: str, word: int | None = None) -> Violation:
    memslot = view.vm.memslots[number]
    gfn = int(memslot.rmap.index["gfn"][at])
    array = memslot.rmap_array
    lpid = None if word is None else word >> RMAP_LPID_SHIFT
    n_gpa = None if word is None else word & ((1 << RMAP_LPID_SHIFT) - 1)
    place = None if array is None else array + 8 * (gfn - memslot.base_gfn)
    text = f"gfn {gfn:#x}: {message}" + ("" if word is None else f": ({lpid}, {n_gpa:#x})")
    return Violation(I5.id, I5.name, ERROR, text, view.vm.kvm, memslot.id, gfn, lpid, n_gpa, place)


def _guest(view: VmView, guest: NestedGuest, message: str) -> Violation:
    return Violation(I6.id, I6.name, ERROR, message, kvm=view.vm.kvm, l1_lpid=guest.l1_lpid)
