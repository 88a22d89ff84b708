"""A State laid out for the rules: leaves, entries and host leaves joined in bulk.

The join is facts the kernel itself relies on: an entry `(l1_lpid, n_gpa)` of a chain
leads to the shadow leaf of that nested guest at that address, and its gfn to the host
leaf that covers it. Columns only: a million leaves take seconds.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.state import LEAF, NestedGuest, Problem, State, Vm
from nestscope.decoders.words.rmap import RMAP_GPA, RMAP_LPID_SHIFT

Numbers = NDArray[np.uint64]
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]

SMALLEST_PAGE_SHIFT = 12

KERNEL_RPN = (1 << 53) - 1
"""`PTE_RPN_MASK` of Linux without its page offset: narrower than the ISA's RPN."""


@dataclass(frozen=True)
class EntryColumns:
    """Every rmap entry of a VM: packed word, gfn, memslot (its place in `vm.memslots`)."""

    word: Numbers
    gfn: Numbers
    slot: Places


@dataclass(frozen=True)
class LeafColumns:
    """Every shadow leaf of a VM: packed word of its entry, leaf, guest (place in `guests`)."""

    word: Numbers
    address: Numbers
    shift: Numbers
    pte: Numbers
    guest: Places


@dataclass(frozen=True)
class Pairs:
    """Shadow leaf and entry that names it, one row a pair, ordered by leaf.

    `leaf`, `entry`: places in the columns. `host`: the PTE of the host leaf that covers
    the entry's gfn, 0 without one; `host_shift`: log2 of its size. `same_page`: the
    kernel's own test holds (`kvmhv_remove_nest_rmap`).
    """

    leaf: Places
    entry: Places
    host: Numbers
    host_shift: Numbers
    same_page: Flags


@dataclass(frozen=True)
class VmView:
    """A VM with what the rules need; `number` is its place in the State.

    `problems` are those of its parts. `rmap_gaps`, `host_gaps`, `nested_gaps`: something
    of the rmap, of the host tree, of the nested guests could not be read, so an absence
    there proves nothing. `gap_slots`: places of the memslots with gaps, -1 for all.
    """

    number: int
    vm: Vm
    page_shift: int
    problems: tuple[Problem, ...]
    rmap_gaps: bool
    host_gaps: bool
    nested_gaps: bool
    gap_slots: frozenset[int]

    @property
    def guests(self) -> tuple[NestedGuest, ...]:
        """The nested guests of the idr, then those that only a vCPU still has."""
        return (*self.vm.nested, *self.vm.orphans)

    @cached_property
    def entries(self) -> EntryColumns:
        """Every rmap entry, in the order of memslots, gfns and chains."""
        words, gfns, slots = [], [], []
        for number, memslot in enumerate(self.vm.memslots):
            rows = memslot.rmap.entries
            words.append(packed(rows["l1_lpid"].astype(np.uint64), rows["n_gpa"]))
            index = memslot.rmap.index
            gfns.append(np.repeat(index["gfn"], index["count"].astype(np.int64)))
            slots.append(np.full(len(rows), number, np.int64))
        return EntryColumns(_joined(words), _joined(gfns), _joined_places(slots))

    def entries_of(self, number: int) -> slice:
        """Return where the entries of a memslot (its place) are in `entries`."""
        first, end = np.searchsorted(self.entries.slot, (number, number + 1)).tolist()
        return slice(first, end)

    def chain_of_entries(self, number: int) -> Places:
        """Return, entry by entry of a memslot, the place of its chain."""
        count = self.vm.memslots[number].rmap.index["count"].astype(np.int64)
        return np.repeat(np.arange(len(count)), count)

    @cached_property
    def stale(self) -> Flags:
        """Say of each entry whether it is stale.

        An entry is in use if the nested guest has a shadow leaf at its n_gpa that maps
        the page of the entry's host leaf.
        """
        stale = np.ones(len(self.entries.word), np.bool_)
        stale[self.pairs.entry[self.pairs.same_page]] = False
        return stale

    @cached_property
    def leaves(self) -> LeafColumns:
        """Every shadow leaf, in the order of `guests`."""
        words, guests = [], []
        rows = [guest.leaves.columns for guest in self.guests]
        for number, guest in enumerate(self.guests):
            address = guest.leaves.columns["address"]
            lpid = np.full(len(address), guest.l1_lpid & 0xFFF, np.uint64)
            words.append(packed(lpid, address))
            guests.append(np.full(len(address), number, np.int64))
        all_rows = np.concatenate(rows) if rows else np.empty(0, LEAF)
        return LeafColumns(
            _joined(words),
            all_rows["address"],
            all_rows["shift"].astype(np.uint64),
            all_rows["pte"],
            _joined_places(guests),
        )

    @cached_property
    def pairs(self) -> Pairs:
        """Every shadow leaf with every entry that names it exactly."""
        order = np.argsort(self.entries.word, kind="stable")
        words = self.entries.word[order]
        first = np.searchsorted(words, self.leaves.word, side="left")
        count = np.searchsorted(words, self.leaves.word, side="right") - first
        leaf = np.repeat(np.arange(len(count)), count)
        offset = np.arange(len(leaf)) - np.repeat(np.cumsum(count) - count, count)
        entry = order[np.repeat(first, count) + offset]
        host, shift = self._host_leaves(self.entries.gfn[entry])
        mask = self.frame_mask(shift)
        same_page = (host != 0) & ((host ^ self.leaves.pte[leaf]) & mask == 0)
        return Pairs(leaf, entry, host, shift, same_page)

    @cached_property
    def named(self) -> Flags:
        """Say of each shadow leaf whether any entry names it."""
        return self.leaves_with(np.ones(len(self.pairs.leaf), np.bool_))

    @cached_property
    def maps_host_page(self) -> Flags:
        """Say of each shadow leaf whether an entry leads to the host leaf with its page."""
        return self.leaves_with(self.pairs.same_page)

    def frame_mask(self, shift: Numbers) -> Numbers:
        """Return the bits of a PTE that the kernel compares: `PTE_RPN_MASK & ~(nbytes - 1)`.

        `shift`: log2 of the size of the host leaf. Source: `kvmhv_remove_nest_rmap_range`.
        """
        smallest = np.uint64((1 << self.page_shift) - 1)
        mask: Numbers = np.uint64(KERNEL_RPN) & ~(bytes_of(shift) - np.uint64(1)) & ~smallest
        return mask

    def host_at(self, gfns: Numbers) -> Places:
        """Return the place of the host leaf that covers each gfn, -1 for none."""
        host = self.vm.host_leaves.columns
        if not len(host):
            return np.full(len(gfns), -1, np.int64)
        gpa = gfns << np.uint64(self.page_shift)
        at = np.searchsorted(self._host_addresses, gpa, side="right") - 1
        found = host[np.maximum(at, 0)]
        inside = (at >= 0) & (gpa - found["address"] < bytes_of(found["shift"]))
        places: Places = np.where(inside, at, -1)
        return places

    @cached_property
    def _host_addresses(self) -> Numbers:
        # Rows are packed: a search in a column of them would copy it each time.
        return np.ascontiguousarray(self.vm.host_leaves.columns["address"])

    def _host_leaves(self, gfns: Numbers) -> tuple[Numbers, Numbers]:
        """Return the host PTE that covers each gfn (0: none) and log2 of its size."""
        at = self.host_at(gfns)
        host = self.vm.host_leaves.columns
        if not len(host):
            return np.zeros(len(gfns), np.uint64), np.zeros(len(gfns), np.uint64)
        found = host[np.maximum(at, 0)]
        return np.where(at >= 0, found["pte"], np.uint64(0)), found["shift"].astype(np.uint64)

    def leaves_with(self, chosen: Flags) -> Flags:
        """Return, leaf by leaf, whether one of its pairs is among the `chosen` pairs."""
        result = np.zeros(len(self.leaves.word), np.bool_)
        result[self.pairs.leaf[chosen]] = True
        return result


@dataclass(frozen=True)
class StateView:
    """A State for the rules: the VMs that can be judged, and those in transition.

    A VM whose `mmu_lock` is held may be half way through a critical section, where
    every rule may be broken for a moment.
    """

    state: State
    vms: tuple[VmView, ...]
    held: tuple[Vm, ...]

    @classmethod
    def of(cls, state: State) -> "StateView":
        """Lay out a State."""
        judged = [(n, vm) for n, vm in enumerate(state.vms) if not vm.mmu_lock_held]
        held = tuple(vm for vm in state.vms if vm.mmu_lock_held)
        return cls(state, tuple(_vm_view(state, number, vm) for number, vm in judged), held)


def _vm_view(state: State, number: int, vm: Vm) -> VmView:
    path = f"vms[{number}]"
    mine = tuple(p for p in state.problems if p.path == path or p.path.startswith(f"{path}."))
    slots = [slot_of(problem, path) for problem in mine]
    known_shift = state.kernel.page_shift
    unread_host = any(p.path.startswith(f"{path}.host_leaves") for p in mine)
    return VmView(
        number,
        vm,
        known_shift or SMALLEST_PAGE_SHIFT,
        mine,
        rmap_gaps=any(slot is not None for slot in slots),
        host_gaps=unread_host or known_shift is None,  # no gfn leads anywhere
        nested_gaps=any(p.path.startswith((f"{path}.nested", f"{path}.running")) for p in mine),
        gap_slots=frozenset(slot for slot in slots if slot is not None),
    )


_SLOT = re.compile(r"\[(\d{1,9})\]")


def slot_of(problem: Problem, vm_path: str) -> int | None:
    """Return the memslot (its place) that a problem is about, -1 for all, None for none."""
    prefix = f"{vm_path}.memslots"
    if not problem.path.startswith(prefix):
        return None
    match = _SLOT.match(problem.path, len(prefix))
    return int(match[1]) if match else -1


def packed(lpid: Numbers, n_gpa: Numbers) -> Numbers:
    """Return rmap words (bit 0 clear) of columns of l1_lpid and n_gpa."""
    return (lpid << np.uint64(RMAP_LPID_SHIFT)) | (n_gpa & np.uint64(RMAP_GPA))


def bytes_of(shift: NDArray[np.unsignedinteger]) -> Numbers:
    """Return `2**shift`. Shifts of 64 and more are undefined; no page is that large."""
    size: Numbers = np.left_shift(np.uint64(1), np.minimum(shift, 63).astype(np.uint64))
    return size


def _joined(parts: list[Numbers]) -> Numbers:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _joined_places(parts: list[Places]) -> Places:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
