"""What is legal and worth knowing: stale entries, long chains, VMs in transition."""

from collections.abc import Iterator

import numpy as np

from nestscope.decoders.audit.chains import found
from nestscope.decoders.audit.finding import INFO, Found, rule
from nestscope.decoders.audit.statistics import statistics_of
from nestscope.decoders.audit.view import StateView
from nestscope.decoders.words.rmap import RMAP_NESTED_SIZE

LONG_CHAIN = 64
"""A chain with fewer entries is not called long."""

LONG_TIMES = 8
"""A long chain has so many times the entries of the median one of its memslot."""


@rule(
    "rmap.stale",
    "entries lead to shadow leaves",
    severity=INFO,
    consequence="No path removes a single entry: stale ones hold memory and make every "
    "insertion slower, until the host page goes.",
)
def entries_are_in_use(state: StateView) -> Iterator[Found]:
    """Entries without a shadow leaf of their page are stale: one finding for each memslot."""
    for each in statistics_of(state):
        if each.stale:
            message = (
                f"{each.stale} of {each.entries} entries are stale; their nodes hold "
                f"{each.stale_bytes} of {each.node_bytes} bytes"
            )
            yield Found(message, each.kvm, each.memslot)


@rule(
    "rmap.long-chain",
    "chains of a memslot are alike",
    severity=INFO,
    consequence="`kvmhv_insert_nest_rmap` walks the whole chain with `mmu_lock` held.",
    address="kernel address of the gfn's rmap word",
)
def chains_are_alike(state: StateView) -> Iterator[Found]:
    """No chain has 64 entries and more than 8 times those of the median chain."""
    for view in state.vms:
        for number, slot in enumerate(view.vm.memslots):
            count = slot.rmap.index["count"].astype(np.int64)
            if not len(count):
                continue
            median = int(np.median(count))
            limit = max(LONG_CHAIN, LONG_TIMES * median)
            for at in np.flatnonzero(count >= limit).tolist():
                held = (int(count[at]) - 1) * RMAP_NESTED_SIZE
                message = (
                    f"{int(count[at])} entries in {held} bytes of nodes; the median is {median}"
                )
                yield found(view, number, at, message)


@rule(
    "vm.in-transition",
    "nobody holds mmu_lock",
    severity=INFO,
    consequence="None: the kernel is in a critical section, where every rule may be broken for a "
    "moment. The VM is not judged.",
    address="kernel address of `struct kvm`",
)
def vm_is_at_rest(state: StateView) -> Iterator[Found]:
    """`kvm->mmu_lock` of the VM is free."""
    for vm in state.held:
        yield Found("mmu_lock is held; the VM is not judged", vm.kvm, address=vm.kvm)
