"""The JSON form of a State: the documented shape, loss-free, and honest about bad input."""

import json

import pytest
from hypothesis import given

from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Source,
    State,
    Vm,
)
from nestscope.decoders.state_json import StateFormatError, from_json, iter_json, to_json

from .strategies import states

EXAMPLE = State(
    source=Source("elf-core", "dump.elf"),
    kernel=KernelInfo("6.12", 16),
    vms=(
        Vm(
            kvm=0xC000000012340000,
            lpid=1,
            radix=True,
            mmu_lock_held=False,
            l1_ptcr=0x40000,
            memslots=(
                Memslot(
                    id=0,
                    base_gfn=0,
                    npages=1024,
                    userspace_addr=None,
                    flags=0,
                    rmap_array=0xC008000000000000,
                    rmap=Chains.build([(128, FORM_LIST, [(3, 0), (2, 0)])]),
                ),
            ),
            host_leaves=Leaves.build([(0x10000, 16, 0xC000000002D50387)]),
            nested=(
                NestedGuest(
                    l1_lpid=1,
                    shadow_lpid=2,
                    refcnt=1,
                    l1_gr_to_hr=0x40000000001000AD,
                    process_table=0,
                    shadow_pgtable=0xC000000000100000,
                    leaves=Leaves.build([(0, 16, 0xC000000002A10307)]),
                ),
            ),
        ),
    ),
    problems=(Problem("vms[0].memslots[1].rmap", "unreadable", 0xC008000000010000),),
)


def test_the_document_has_the_members_and_spellings_of_the_contract() -> None:
    document = json.loads(to_json(EXAMPLE))
    assert document["schema"] == "nestscope.state/1"
    assert document["source"] == {"kind": "elf-core", "name": "dump.elf"}
    assert document["kernel"] == {"release": "6.12", "page_shift": 16}
    vm = document["vms"][0]
    assert vm["kvm"] == "0xc000000012340000"
    assert (vm["lpid"], vm["radix"], vm["mmu_lock_held"], vm["l1_ptcr"]) == (
        1,
        True,
        False,
        "0x40000",
    )
    assert vm["memslots"][0]["rmap"] == [
        {
            "gfn": 128,
            "form": "list",
            "entries": [{"l1_lpid": 3, "n_gpa": "0x0"}, {"l1_lpid": 2, "n_gpa": "0x0"}],
        }
    ]
    assert vm["memslots"][0]["userspace_addr"] is None
    assert vm["host_leaves"] == [{"gpa": "0x10000", "shift": 16, "pte": "0xc000000002d50387"}]
    assert vm["nested"][0]["leaves"] == [{"n_gpa": "0x0", "shift": 16, "pte": "0xc000000002a10307"}]
    assert document["problems"][0]["path"] == "vms[0].memslots[1].rmap"


@given(states)
def test_a_state_survives_the_way_to_json_and_back(state: State) -> None:
    again = from_json(to_json(state))
    assert to_json(again) == to_json(state)
    for before, after in zip(state.vms, again.vms, strict=True):
        assert list(after.host_leaves) == list(before.host_leaves)
        for slot_before, slot_after in zip(before.memslots, after.memslots, strict=True):
            assert list(slot_after.rmap) == list(slot_before.rmap)


def test_a_large_set_is_streamed_in_pieces() -> None:
    leaves = Leaves.build((number << 16, 16, number) for number in range(20_000))
    vm = Vm(kvm=1, lpid=1, radix=True, mmu_lock_held=False, l1_ptcr=0, host_leaves=leaves)
    state = State(Source("model", "m"), KernelInfo(None, 16), (vm,))
    pieces = list(iter_json(state))
    assert max(len(piece) for piece in pieces) < 512 * 1024
    assert len(json.loads("".join(pieces))["vms"][0]["host_leaves"]) == 20_000


def test_chains_are_found_by_gfn() -> None:
    chains = Chains.build([(9, FORM_SINGLE, [(1, 0x1000)]), (4, FORM_LIST, [(2, 0), (1, 0)])])
    found = chains.of(4)
    assert found is not None
    assert found.form == "list"
    assert [entry.l1_lpid for entry in found.entries] == [2, 1]
    assert chains.of(5) is None
    assert chains.of(10) is None


def test_a_leaf_covers_its_whole_page_and_nothing_more() -> None:
    leaves = Leaves.build([(0x200000, 21, 7), (0x10000, 16, 5)])
    assert leaves.covering(0x3FFFFF) == (0x200000, 21, 7)
    assert leaves.covering(0x10000) == (0x10000, 16, 5)
    assert leaves.covering(0x400000) is None
    assert leaves.covering(0xFFFF) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 column 2"),
        ("[]", "schema is None"),
        ('{"schema": "nestscope.state/9"}', "nestscope.state/9"),
        ('{"schema": "nestscope.state/1"}', "missing"),
    ],
)
def test_bad_documents_are_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(StateFormatError, match=says.replace("[", r"\[")):
        from_json(text)
