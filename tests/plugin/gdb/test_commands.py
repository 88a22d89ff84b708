"""Every command in a real GDB on a real kernel, held against the State that the RAM file shows."""

import pytest

from nestscope.decoders.state import Chain, Memslot
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.plugin.gdb.inside import spec

from .conftest import Attached

pytestmark = pytest.mark.kernel

PAGE = 0x1_0000
SHARED = 0x90_0000
"""The guest page that several nested guests map at the scenario's end."""


def slot_of(attached: Attached) -> Memslot:
    (slot,) = attached.world.vm.memslots
    return slot


def chain_of(attached: Attached, gfn: int) -> Chain:
    chain = slot_of(attached).rmap.of(gfn)
    assert chain is not None
    return chain


def shift_of(attached: Attached) -> int:
    shift = attached.world.state().kernel.page_shift
    assert shift is not None
    return shift


def test_vms_are_those_of_the_state(attached: Attached) -> None:
    vm = attached.world.vm
    (told,) = attached.json("nested vms")["vms"]
    assert told["kvm"] == hex(vm.kvm)
    assert (told["lpid"], told["radix"], told["mmu_lock_held"]) == (vm.lpid, True, False)
    assert told["nested"] == [guest.l1_lpid for guest in vm.nested] == [1, 2]
    assert hex(vm.kvm) in attached.gdb.run("nested vms")


def test_slots_are_those_of_the_state(attached: Attached) -> None:
    slot = slot_of(attached)
    (told,) = attached.json("nested slots")["memslots"]
    assert told["npages"] == slot.npages
    assert told["rmap_array"] == hex(slot.rmap_array or 0)
    assert "64 MiB" in attached.gdb.run("nested slots")


def test_guests_are_those_of_the_state(attached: Attached) -> None:
    told = attached.json("nested guests --vm 0")["nested"]
    assert [
        (guest["l1_lpid"], guest["shadow_lpid"], guest["shadow_pgtable"]) for guest in told
    ] == [
        (guest.l1_lpid, guest.shadow_lpid, hex(guest.shadow_pgtable or 0))
        for guest in attached.world.vm.nested
    ]


def test_a_chain_by_gfn_and_by_address(attached: Attached) -> None:
    gfn = SHARED >> shift_of(attached)
    expected = [(entry.l1_lpid, hex(entry.n_gpa)) for entry in chain_of(attached, gfn).entries]
    assert len(expected) >= 2
    for command in (f"nested chain {gfn:#x}", f"nested chain --gpa {SHARED + 0x10:#x}"):
        told = attached.json(command)
        assert (told["gfn"], told["form"]) == (gfn, "list")
        assert [(entry["l1_lpid"], entry["n_gpa"]) for entry in told["entries"]] == expected
        # n entries have n - 1 nodes: the last one is the last node's next pointer.
        assert [entry["node"] is None for entry in told["entries"]] == [
            *[False] * (len(expected) - 1),
            True,
        ]
    word = int(attached.gdb.run(f"output/x *(unsigned long *){told['address']}").strip(), 16)
    assert hex(word) == told["word"]
    assert "last word" in attached.gdb.run(f"nested chain {gfn:#x}")


def test_an_empty_chain(attached: Attached) -> None:
    told = attached.json("nested chain 1")
    assert (told["form"], told["entries"], told["word"]) == ("empty", [], "0x0")


def test_places_are_expressions(attached: Attached) -> None:
    gfn = SHARED >> shift_of(attached)
    attached.gdb.run(f"set $page = {gfn:#x}")
    assert attached.json("nested chain $page+0")["gfn"] == gfn


def test_a_host_page_leads_to_those_who_map_it(attached: Attached) -> None:
    vm = attached.world.vm
    leaf = vm.host_leaves.covering(SHARED)
    assert leaf is not None
    (told,) = attached.json(f"nested hostpage {(leaf.pte & PTE_RPN) + 0x123:#x}")["mappings"]
    assert (told["gpa"], told["pte"]) == (hex(leaf.address), hex(leaf.pte))
    entries = told["chain"]["entries"]
    assert {entry["l1_lpid"] for entry in entries} == {1, 2}
    for entry in entries:
        guest = next(guest for guest in vm.nested if guest.l1_lpid == entry["l1_lpid"])
        shadow = guest.leaves.covering(int(entry["n_gpa"], 16))
        maps = shadow is not None and shadow.pte & PTE_RPN == leaf.pte & PTE_RPN
        assert entry["standing"].startswith("maps it") == maps
    assert "no VM of this host maps" in attached.gdb.run("nested hostpage 0")


def test_an_entry_without_a_leaf_is_called_stale(attached: Attached) -> None:
    """The code page: nested guest 3 was dropped, its entry stayed."""
    vm = attached.world.vm
    code = next(
        chain
        for chain in slot_of(attached).rmap
        if any(entry.l1_lpid == 3 for entry in chain.entries)
    )
    leaf = vm.host_leaves.covering(code.gfn << shift_of(attached))
    assert leaf is not None
    (told,) = attached.json(f"nested hostpage {leaf.pte & PTE_RPN:#x}")["mappings"]
    standing = {entry["l1_lpid"]: entry["standing"] for entry in told["chain"]["entries"]}
    assert standing[3] == "stale: there is no such nested guest"
    assert standing[1].startswith("maps it")


def test_a_walk_goes_through_both_stages(attached: Attached) -> None:
    walked = attached.json("nested walk 0x2000010 --lpid 2")
    assert walked["guest"]["leaf"]["real_address"] == hex(SHARED + 0x10)
    leaf = attached.world.vm.host_leaves.covering(SHARED)
    assert leaf is not None
    assert walked["host"]["leaf"]["pte"] == hex(leaf.pte)
    assert walked["shadow_agrees"] is True
    assert walked["host"]["steps"][-1]["bits_set"]["RPN"] == hex((leaf.pte & PTE_RPN) >> 12)
    assert walked["rmap"]["gfn"] == SHARED >> shift_of(attached)
    shown = attached.gdb.run("nested walk 0x2000010 --lpid 2")
    for text in ("guest's tree", "host's tree", "shadow tree", "leads where", "EAA 0x7"):
        assert text in shown


def test_a_walk_of_a_guest_address(attached: Attached) -> None:
    walked = attached.json(f"nested walk {SHARED:#x}")
    assert walked["guest"] is None
    assert walked["host"]["leaf"]["shift"] == shift_of(attached)


def test_decode(attached: Attached) -> None:
    told = attached.json("nested decode pte 0xc000000002d50387")
    fields = {field["name"]: field["value"] for field in told["fields"]}
    assert (fields["rpn"], fields["eaa"], fields["c"]) == ("0x2d50", "0x7", "0x1")
    assert "L1_LPID" in attached.gdb.run("nested decode rmap 0x0030000001000001")


def test_stats_count_what_the_state_holds(attached: Attached) -> None:
    slot = slot_of(attached)
    (told,) = attached.json("nested stats")["vms"]
    (numbers,) = told["memslots"]
    chains = list(slot.rmap)
    assert numbers["entries"] == sum(len(chain.entries) for chain in chains)
    assert numbers["chains"]["list"] == sum(chain.form == "list" for chain in chains)
    lists = [chain for chain in chains if chain.form == "list"]
    assert numbers["node_bytes"] == 16 * sum(len(chain.entries) - 1 for chain in lists)
    assert numbers["array_bytes"] == 8 * slot.npages
    assert numbers["longest"] == max(len(chain.entries) for chain in chains)
    assert numbers["stale"] == stale_by_hand(attached)
    assert "chains by length" in attached.gdb.run("nested stats --vm 0")


def stale_by_hand(attached: Attached) -> int:
    """Entry by entry, as the definition says it."""
    vm, shift = attached.world.vm, shift_of(attached)
    guests = {guest.l1_lpid: guest for guest in vm.nested}
    stale = 0
    for chain in slot_of(attached).rmap:
        host = vm.host_leaves.covering(chain.gfn << shift)
        for entry in chain.entries:
            guest = guests.get(entry.l1_lpid)
            shadow = guest.leaves.covering(entry.n_gpa) if guest is not None else None
            mapped = host is not None and shadow is not None
            stale += not (mapped and (host.pte ^ shadow.pte) & PTE_RPN == 0)  # type: ignore[union-attr]
    assert stale > 0
    return stale


def test_check_finds_nothing_wrong_and_shows_progress(attached: Attached) -> None:
    told = attached.json("nested check")
    assert told["schema"] == "nestscope.check/1"
    assert [each for each in told["findings"] if each["severity"] == "error"] == []
    shown = attached.gdb.run("nested check")
    assert "reading every VM" in shown
    assert "1 VM, " in shown


def test_target_says_where_types_come_from(attached: Attached) -> None:
    told = attached.json("nested target")
    assert told["kernel"] == attached.world.lab.kernel.release
    assert told["kvm_modules"] == "kvm, kvm_hv"
    assert told["types"]


@pytest.mark.parametrize("verb", spec.VERBS, ids=lambda verb: verb.name)
def test_every_command_has_help_and_completion(attached: Attached, verb: spec.Verb) -> None:
    shown = attached.gdb.run(f"help nested {verb.name}")
    assert shown.startswith(verb.summary)
    assert f"Usage: {spec.usage(verb)}" in shown
    completed = attached.gdb.run(f"complete nested {verb.name} --").split("\n")
    for option in verb.options:
        assert f"nested {verb.name} --{option.name}" in completed
    assert f"nested {verb.name}" in attached.gdb.run("complete nested ").split("\n")


def test_completion_of_words(attached: Attached) -> None:
    assert attached.gdb.run("complete nested decode pr").strip() == "nested decode prte"
    assert attached.gdb.run("complete nested break in").strip() == "nested break insert"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("nested chain", "it takes PLACE, and 0 came"),
        ("nested chain 1 2", "it takes PLACE, and 2 came"),
        ("nested chain 0x10000000", "is in no memslot of VM 0"),
        ("nested chain nothing", "nothing has no value"),
        ("nested chain 1 --vm 7", "there is no VM 0x7"),
        ("nested chain 1 --colour", "there is no option --colour"),
        ("nested chain 1 --vm", "--vm needs a value"),
        ("nested walk 0 --lpid 9", "no nested guest 9"),
        ("nested decode pxe 1", "pxe is not one of pte, pde"),
        ("nested break insert 5000 0", "no rmap entry can hold l1_lpid 5000"),
        ('p $_nested_pte(1, "xx")', "pte has no field xx"),
    ],
)
def test_mistakes_are_one_sentence(attached: Attached, command: str, sentence: str) -> None:
    shown = attached.gdb.run(command)
    assert sentence in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_functions_in_expressions(attached: Attached) -> None:
    gfn = SHARED >> shift_of(attached)
    chain = chain_of(attached, gfn)
    entry = chain.entries[0]
    for expression, value in {
        '$_nested_pte(0xc000000002d50387, "rpn")': "0x2d50",
        '$_nested_rmap(0x0030000001000001, "l1_lpid")': "0x3",
        f"$_nested_chain_length({gfn:#x})": hex(len(chain.entries)),
        f"$_nested_chain_has({gfn:#x}, {entry.l1_lpid}, {entry.n_gpa:#x})": "0x1",
        f"$_nested_chain_has({gfn:#x}, 77, 0)": "0x0",
    }.items():
        assert attached.gdb.run(f"output/x {expression}") == value, expression
    shown = attached.gdb.run(f"output $_nested_chain({gfn:#x})")
    pairs = " ".join(f"({entry.l1_lpid}, {entry.n_gpa:#x})" for entry in chain.entries)
    assert shown == f'"list {pairs}"'
    assert "referenced" in attached.gdb.run("output $_nested_pte(0xc000000002d50387)")
