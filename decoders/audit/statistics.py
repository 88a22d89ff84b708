"""How long chains are, how much of them is stale, and what memory they hold."""

from dataclasses import dataclass

import numpy as np

from nestscope.decoders.audit.view import StateView, VmView
from nestscope.decoders.state import FORM_LIST, State
from nestscope.decoders.words.rmap import RMAP_NESTED_SIZE


@dataclass(frozen=True)
class SlotStatistics:
    """The rmap of one memslot (`kvm`: address of its VM, `memslot`: its id).

    `chains` and `entries` are counts; `nodes` of `struct rmap_nested`, `node_bytes` their
    memory. `stale`: entries that lead to no shadow leaf of their page, `stale_bytes`: the
    memory that their nodes hold; None where the State does not know all leaves.
    `longest`: entries of the longest chain, that of `longest_gfn`; `median`: of a chain in
    the middle.
    """

    kvm: int
    memslot: int
    chains: int
    entries: int
    nodes: int
    stale: int | None
    stale_bytes: int | None
    longest: int
    longest_gfn: int | None
    median: int

    @property
    def node_bytes(self) -> int:
        """Memory of all nodes, without what the allocator adds."""
        return self.nodes * RMAP_NESTED_SIZE


def rmap_statistics(state: State) -> list[SlotStatistics]:
    """Return the statistics of every memslot of every VM that is not in transition."""
    return statistics_of(StateView.of(state))


def statistics_of(state: StateView) -> list[SlotStatistics]:
    """Return the statistics of every memslot that a view has."""
    return [_of_slot(view, number) for view in state.vms for number in range(len(view.vm.memslots))]


def _of_slot(view: VmView, number: int) -> SlotStatistics:
    slot = view.vm.memslots[number]
    index = slot.rmap.index
    count = index["count"].astype(np.int64)
    nodes = np.where(index["form"] == FORM_LIST, np.maximum(count - 1, 0), 0)
    stale = stale_bytes = None
    if not (view.host_gaps or view.nested_gaps or view.rmap_gaps):
        mine = view.stale[view.entries_of(number)]
        live = np.bincount(view.chain_of_entries(number)[~mine], minlength=len(count))
        stale = int(np.count_nonzero(mine))
        # A chain of n entries has n-1 nodes.
        held = np.minimum(nodes, nodes - np.maximum(live - 1, 0))
        stale_bytes = int(held.sum()) * RMAP_NESTED_SIZE
    at = int(np.argmax(count)) if len(count) else None
    return SlotStatistics(
        kvm=view.vm.kvm,
        memslot=slot.id,
        chains=len(count),
        entries=int(count.sum()),
        nodes=int(nodes.sum()),
        stale=stale,
        stale_bytes=stale_bytes,
        longest=0 if at is None else int(count[at]),
        longest_gfn=None if at is None else int(index["gfn"][at]),
        median=int(np.median(count)) if len(count) else 0,
    )
