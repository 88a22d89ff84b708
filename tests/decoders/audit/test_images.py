"""Rules that no damage of single words breaks: each on memory in a kernel's own layout.

All other rules are broken word by word (tests/plugin/differential/corruptions).
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.audit.finding import Finding
from nestscope.decoders.chain_troubles import LINEAR_MAP, MAX_CHAIN
from nestscope.decoders.read_state import read_state
from nestscope.decoders.rmap_array import read_rmap
from nestscope.decoders.state import FORM_LIST, FORM_SINGLE, Chains, Running, State
from nestscope.decoders.words.rmap import make_entry
from nestscope.sim.image.build import build_image
from nestscope.sim.image.memory import Region, SparseMemory
from nestscope.sim.image.profiles import profile_types
from tests.decoders.memories import BulkSparseMemory
from tests.decoders.rmaps_in_memory import ARRAY, malformed
from tests.sim.states import guest, slot, state, vm

GFN, N = 4, 0x10_0000
NODE = np.dtype([("next", "<u8"), ("rmap", "<u8")])


def laid_out(known: State) -> State:
    """The State as it is read back from an image of itself."""
    image = build_image(known, profile_types("6.12-like"))
    return read_state(image.memory, image.kernel, known.source)


def of_rule(known: State, rule: str) -> list[Finding]:
    return [finding for finding in audit(known) if finding.rule == rule]


def test_a_nested_guest_with_an_lpid_of_13_bits_that_only_a_vcpu_has() -> None:
    """The idr has no such key, but `vcpu->arch.nested` may lead to anything."""
    lost = replace(guest(4096, shadow_lpid=7), address=0x900)
    known = state(replace(vm(), running=(Running(0, 0x900),), orphans=(lost,)))
    read = laid_out(known)
    (found,) = of_rule(read, "I6.lpid-range")
    assert found.l1_lpid == 4096
    assert found.address == read.vms[0].orphans[0].address


def test_a_chain_of_64_among_short_ones() -> None:
    long = [(lpid, N) for lpid in range(1, 65)]
    rows = [(GFN, FORM_LIST, long), *((gfn, FORM_SINGLE, [(1, N)]) for gfn in range(5, 9))]
    memslot = replace(slot(), base_gfn=0, npages=64, rmap=Chains.build(rows))
    (found,) = of_rule(laid_out(state(vm(memslots=[memslot]))), "rmap.long-chain")
    assert found.gfn == GFN
    assert found.message.endswith("64 entries in 1008 bytes of nodes; the median is 1")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_list_with_more_nodes_than_are_followed() -> None:
    """A million nodes take 16 MiB: the word of one gfn is made to lead to them."""
    memslot = replace(
        slot(), base_gfn=0, npages=64, rmap=Chains.build([(GFN, FORM_SINGLE, [(1, N)])])
    )
    known = state(vm(memslots=[memslot]))
    image = build_image(known, profile_types("6.12-like"))
    array = read_state(image.memory, image.kernel, known.source).vms[0].memslots[0].rmap_array
    assert array is not None
    start = max(region.end for region in image.memory.regions) + 0xFFFF & ~0xFFFF
    nodes = np.empty(MAX_CHAIN + 1, NODE)
    nodes["next"] = LINEAR_MAP + start + 16 * np.arange(1, len(nodes) + 1, dtype=np.uint64)
    nodes["next"][-1] = make_entry(1, N, single=True)
    nodes["rmap"] = make_entry(2, 0) + (np.arange(len(nodes), dtype=np.uint64) << np.uint64(12))
    memory = SparseMemory([*image.memory.regions, Region(start, nodes.view(np.uint8))])
    at = image.kernel.memory.translate(array + 8 * GFN)
    region = next(each for each in memory.regions if each.start <= at < each.end)
    region.data[at - region.start :][:8] = np.frombuffer(
        (LINEAR_MAP + start).to_bytes(8, "little"), np.uint8
    )
    read = read_state(memory, image.kernel, known.source)
    (found,) = of_rule(read, "rmap.long-walk")
    assert found.gfn == GFN
    assert found.address == LINEAR_MAP + start + 16 * (MAX_CHAIN - 1)
    assert len(read.vms[0].memslots[0].rmap.entries) == MAX_CHAIN


@given(st.data())
def test_a_list_of_one_is_never_read_without_a_problem(data: st.DataObject) -> None:
    """So `I5.form` can be broken by a State from elsewhere only."""
    rmap = data.draw(malformed(BulkSparseMemory(), "little"))
    chains, problems = read_rmap(rmap.memory, ARRAY, rmap.npages, 0)
    told = {problem.path for problem in problems}
    for chain in chains:
        enough = len(chain.entries) == 1 if chain.form == "single" else len(chain.entries) > 1
        assert enough or f"rmap[gfn {chain.gfn}]" in told
