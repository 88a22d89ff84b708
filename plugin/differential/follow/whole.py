"""Comparing a whole VM with its mirror: what changed without a followed call shows here."""

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders import state as st
from nestscope.decoders.compare import Difference
from nestscope.plugin.differential.follow.checks import (
    Tally,
    describe_chain,
    describe_leaf,
    gained_rc,
)
from nestscope.plugin.differential.follow.mirror import VmMirror, add_tables, slot_of
from nestscope.sim.kvm import Memslot
from nestscope.sim.tree import RadixTree


def compare_vm(
    vm: VmMirror, seen: st.Vm, tally: Tally, *, ptcr_followed: bool = True
) -> list[Difference]:
    """Compare all trees and chains; the mirror then holds what was observed.

    Memslots and nested guests that were made or dropped are taken over, and `l1_ptcr`
    where its changes are not followed. Nobody may hold `mmu_lock`.
    """
    kvm = vm.kvm
    found = vm.adopt_slots(seen.memslots) + vm.adopt_nested(seen.nested)
    if seen.l1_ptcr != kvm.l1_ptcr:
        observed = seen.l1_ptcr or 0
        if ptcr_followed:
            found.append(Difference(f"{vm.path}.l1_ptcr", f"{kvm.l1_ptcr:#x}", f"{observed:#x}"))
        kvm.l1_ptcr = observed
    found += compare_tree(vm, kvm.pgtable, seen.host_leaves, tally)
    for guest in seen.nested:
        found += compare_tree(vm, kvm.nested[guest.l1_lpid].shadow, guest.leaves, tally)
    by_id = {slot.id: slot for slot in kvm.memslots}
    for slot in seen.memslots:
        found += compare_chains(vm, by_id[slot.id], slot, tally)
    return found


def compare_tree(vm: VmMirror, tree: RadixTree, seen: st.Leaves, tally: Tally) -> list[Difference]:
    """Compare all leaves of a tree, word for word."""
    tally.leaves += len(seen)
    expected = {(address, shift): pte for address, shift, pte in tree.leaves()}
    if len(expected) == len(seen) and _same(expected, seen):
        return []
    observed = {(address, shift): pte for address, shift, pte in seen.columns.tolist()}
    found = []
    for key in sorted(expected.keys() | observed.keys()):
        left, right = expected.get(key, 0), observed.get(key, 0)
        if left == right:
            continue
        address, shift = key
        size = 0 if shift == vm.kvm.page_shift else shift
        tree.change(address, size, right)
        if right:
            add_tables(tree, address, shift)
        if left and gained_rc(left, right):
            tally.rc_gained += 1
            continue
        path = f"{vm.name_of(tree)}[{address:#x}]"
        found.append(Difference(path, describe_leaf(left, shift), describe_leaf(right, shift)))
    return found


def _same(expected: dict[tuple[int, int], int], seen: st.Leaves) -> bool:
    """Say whether the leaves agree, for large trees without an object for each."""
    mine: NDArray[np.void] = np.fromiter(
        ((address, shift, pte) for (address, shift), pte in expected.items()),
        st.LEAF,
        len(expected),
    )
    mine.sort(order="address")
    return bool((mine == seen.columns).all())


def compare_chains(vm: VmMirror, slot: Memslot, seen: st.Memslot, tally: Tally) -> list[Difference]:
    """Compare all chains of a memslot, order included."""
    observed = slot_of(seen).rmap
    tally.chains += len(observed)
    if observed == slot.rmap:
        return []
    found = []
    for index in sorted(observed.keys() | slot.rmap.keys()):
        left, right = slot.rmap.get(index), observed.get(index)
        if left != right:
            gfn = slot.base_gfn + index
            path = f"{vm.path}.memslots[id={slot.id}].rmap[gfn={gfn:#x}]"
            found.append(Difference(path, describe_chain(left), describe_chain(right)))
    slot.rmap.clear()
    slot.rmap.update(observed)
    return found
