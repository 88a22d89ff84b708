"""The JSON form of a State: the documented shape, loss-free, and honest about bad input."""

import json
from dataclasses import replace

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
    Running,
    Source,
    State,
    Vm,
)
from nestscope.decoders.state_from_json import StateFormatError, from_json
from nestscope.decoders.state_json import iter_json, to_json

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
    assert again.problems == state.problems
    for before, after in zip(state.vms, again.vms, strict=True):
        assert after.running == before.running
        assert [each.shadow_pate for each in (*after.nested, *after.orphans)] == [
            each.shadow_pate for each in (*before.nested, *before.orphans)
        ]
        assert list(after.host_leaves) == list(before.host_leaves)
        for slot_before, slot_after in zip(before.memslots, after.memslots, strict=True):
            assert list(slot_after.rmap) == list(slot_before.rmap)


def test_what_the_processors_use_has_its_spelling() -> None:
    guest = NestedGuest(1, 2, 1, 0, 0, 0xC000, address=0xC100, shadow_pate=(0x8000, 0x10))
    vm = replace(
        EXAMPLE.vms[0], nested=(guest,), running=(Running(3, 0xC200),), orphans=(guest, guest)
    )
    found = json.loads(to_json(replace(EXAMPLE, vms=(vm,))))["vms"][0]
    assert found["nested"][0]["address"] == "0xc100"
    assert found["nested"][0]["shadow_pate"] == {"dw0": "0x8000", "dw1": "0x10"}
    assert found["running"] == [{"vcpu_id": 3, "nested": "0xc200"}]
    assert len(found["orphans"]) == 2
    unknown = json.loads(to_json(replace(EXAMPLE, vms=(replace(vm, running=None),))))["vms"][0]
    assert unknown["running"] is None


def test_a_document_of_before_these_members_is_read_as_not_knowing_them() -> None:
    document = json.loads(to_json(EXAMPLE))
    for name in ("running", "orphans"):
        document["vms"][0].pop(name)
    for name in ("address", "shadow_pate"):
        document["vms"][0]["nested"][0].pop(name)
    (vm,) = from_json(json.dumps(document)).vms
    assert (vm.running, vm.orphans) == (None, ())
    assert (vm.nested[0].address, vm.nested[0].shadow_pate) == (None, None)


def test_a_problem_has_kind_and_word_only_if_it_has_them() -> None:
    told = Problem("vms", "so it is", None, "chain-cycle", 0x10)
    first, second = json.loads(to_json(replace(EXAMPLE, problems=(told, *EXAMPLE.problems))))[
        "problems"
    ]
    assert (first["kind"], first["word"]) == ("chain-cycle", "0x10")
    assert set(second) == {"path", "message", "address"}


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
        ("9" * 5000, "not read"),
        ("[" * 100_000, "not read"),
    ],
    ids=lambda text: text[:30],
)
def test_bad_documents_are_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(StateFormatError, match=says.replace("[", r"\[")):
        from_json(text)


def changed(path: str, value: object) -> str:
    """The example with one member, at a path with dots, of another value."""
    document = json.loads(to_json(EXAMPLE))
    *way, last = [int(name) if name.isdecimal() else name for name in path.split(".")]
    at = document
    for name in way:
        at = at[name]
    at[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("source.name", 5),
        ("kernel.release", ["6.12"]),
        ("kernel.page_shift", 16.0),
        ("kernel.page_shift", 1_000_000),
        ("vms", {"kvm": 1}),
        ("vms.0.kvm", None),
        ("vms.0.kvm", "-0x1"),
        ("vms.0.kvm", "0x1" + "0" * 16),
        ("vms.0.lpid", "1"),
        ("vms.0.radix", 1),
        ("vms.0.running", [{"vcpu_id": 1}]),
        ("vms.0.memslots.0.base_gfn", -1),
        ("vms.0.memslots.0.npages", 1 << 64),
        ("vms.0.memslots.0.flags", True),
        ("vms.0.memslots.0.rmap.0.form", "ring"),
        ("vms.0.memslots.0.rmap.0.gfn", float("inf")),
        ("vms.0.memslots.0.rmap.0.entries.0.l1_lpid", 1 << 16),
        ("vms.0.memslots.0.rmap.0.entries.0.n_gpa", 4096),
        ("vms.0.nested.0.shadow_pate", {"dw0": "0x1"}),
        ("vms.0.nested.0.leaves.0.pte", "word"),
        ("vms.0.host_leaves.0.shift", 64),
        ("vms.0.host_leaves", [{"gpa": "0x0", "shift": 16, "pte": "0x1"}] * 2),
        ("problems.0.message", None),
    ],
)
def test_a_member_that_cannot_be_is_refused(path: str, value: object) -> None:
    from_json(changed("source.name", "as it is"))
    with pytest.raises(StateFormatError, match="missing or of a wrong kind"):
        from_json(changed(path, value))
