"""Large States for benchmarks: what was asked for, and nothing a host could not show."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.synthetic import synthetic_state

RPN = 0x01FF_FFFF_FFFF_F000


@settings(max_examples=40, deadline=None)
@given(
    entries=st.integers(0, 700),
    chain_max=st.integers(1, 64),
    nested=st.integers(1, 40),
    spare=st.integers(0, 500),
    page_shift=st.sampled_from((12, 16)),
    seed=st.integers(0, 9),
)
def test_every_shadow_leaf_is_in_the_chain_of_its_host_page(
    entries: int, chain_max: int, nested: int, spare: int, page_shift: int, seed: int
) -> None:
    (vm,) = synthetic_state(
        gfns=1000 + spare,
        host_leaves=1000,
        entries=entries,
        chain_max=chain_max,
        nested=nested,
        page_shift=page_shift,
        seed=seed,
    ).vms
    (slot,) = vm.memslots
    assert (slot.npages, len(vm.host_leaves), len(vm.nested)) == (1000 + spare, 1000, nested)
    frames = {leaf.address >> page_shift: leaf.pte & RPN for leaf in vm.host_leaves}
    assert len(set(frames.values())) == 1000
    listed = {}
    for chain in slot.rmap:
        assert 1 <= len(chain.entries) <= chain_max
        assert chain.form == ("single" if len(chain.entries) == 1 else "list")
        listed.update({(entry.l1_lpid, entry.n_gpa): frames[chain.gfn] for entry in chain.entries})
    assert len(slot.rmap.entries) == len(listed) == entries
    shadows = {
        (guest.l1_lpid, leaf.address): leaf.pte & RPN
        for guest in vm.nested
        for leaf in guest.leaves
    }
    assert shadows == listed


def test_chains_reach_the_length_that_was_allowed() -> None:
    (vm,) = synthetic_state(gfns=4000, entries=20000, chain_max=64).vms
    longest = max(len(chain.entries) for chain in vm.memslots[0].rmap)
    assert longest == 64


def test_too_few_gfns_or_nested_guests_are_refused() -> None:
    for wrong in ({"gfns": 10}, {"gfns": 100, "host_leaves": 200}, {"gfns": 100, "nested": 0}):
        with pytest.raises(ImageError):
            synthetic_state(**{"entries": 50, "chain_max": 1, "nested": 3} | wrong)  # type: ignore[arg-type]
