"""Whatever a State holds, the audit ends with findings and never with an exception."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.audit.statistics import rmap_statistics
from nestscope.decoders.state import Chains, Leaves, Memslot, Problem, State
from tests.decoders.strategies import states
from tests.sim.states import guest, slot, state, vm

WORD = st.integers(0, 2**64 - 1)

wild_leaves = st.lists(st.tuples(WORD, st.integers(0, 255), WORD), max_size=6).map(Leaves.build)
wild_chains = st.lists(
    st.tuples(WORD, st.sampled_from((1, 2)), st.lists(st.tuples(st.integers(0, 65535), WORD))),
    max_size=4,
    unique_by=lambda chain: chain[0],
).map(Chains.build)
wild_slots = st.builds(
    Memslot,
    id=st.integers(-(2**15), 2**15 - 1),
    base_gfn=WORD,
    npages=WORD,
    userspace_addr=WORD,
    flags=st.none() | st.integers(0, 2**32 - 1),
    rmap_array=st.none() | WORD,
    rmap=wild_chains,
)


@given(states)
def test_any_state(known: State) -> None:
    audit(known)
    rmap_statistics(known)


@settings(max_examples=100)
@given(wild_leaves, wild_leaves, st.lists(wild_slots, max_size=3))
def test_wild_words_everywhere(host: Leaves, shadow: Leaves, slots: list[Memslot]) -> None:
    nested = (replace(guest(1), leaves=shadow), replace(guest(5000), leaves=shadow))
    known = state(replace(vm(memslots=slots, nested=nested), host_leaves=host))
    audit(known, rc_by_hardware=False)
    rmap_statistics(known)


@pytest.mark.parametrize("base_gfn", [0, 2**52, 2**63, 2**64 - 1])
def test_a_memslot_at_the_end_of_the_world_holds_no_leaf_of_the_start(base_gfn: int) -> None:
    wide = replace(slot(), base_gfn=base_gfn, npages=2**64 - 1)
    known = state(vm(host=[(0, 16, 0xC000_0000_0000_0187)], memslots=[wide]))
    found = [each.rule for each in audit(known)]
    assert found == ([] if base_gfn == 0 else ["host.outside-memslot"])


@pytest.mark.parametrize("kind", ["chain-cycle", "chain-reserved", "idr-key", "table-twice"])
@pytest.mark.parametrize(
    "path",
    [
        "vms[0].memslots[9].rmap[gfn 5]",
        "vms[0].memslots[0].rmap[gfn " + "9" * 5000 + "]",
        "vms[0].memslots[" + "9" * 5000 + "].rmap[gfn 5]",
        "vms[0].nested[9].leaves",
        "vms[0].orphans[0].leaves",
        "vms[0].nested[" + "9" * 5000 + "]",
    ],
    ids=lambda path: path[:40],
)
def test_a_problem_whose_path_leads_nowhere_names_nobody(path: str, kind: str) -> None:
    """A State from elsewhere may say so."""
    known = state(vm(memslots=[slot()]), problems=[Problem(path, "so it is", 1, kind, 0x1001)])
    for found in audit(known):
        assert found.l1_lpid in (None, 0)
        assert found.memslot in (None, 0)
