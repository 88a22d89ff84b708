"""Signatures: the same for the same cause, whatever the numbers are."""

import pytest

from nestscope.decoders.compare import Difference
from nestscope.plugin.differential.campaign.actions import action_of, covers
from nestscope.plugin.differential.campaign.trouble import (
    of_differences,
    of_failure,
    of_warning,
    shape_of,
)
from nestscope.plugin.qemu.errors import LabFailure
from nestscope.sim.events import Fork
from nestscope.sim.operations import (
    DiscardMemory,
    Drop,
    Load,
    Operation,
    RawHcall,
    Store,
    Together,
)


@pytest.mark.parametrize(
    ("expected", "observed", "shape"),
    [
        ("no leaf", "pte 0xc000000000010387 shift 16", "leaf too many"),
        ("pte 0xc000000000010387 shift 16", "no leaf", "leaf missing"),
        (
            "pte 0xc000000000010387 shift 16",
            "pte 0xc000000000010307 shift 16",
            "leaf differs in C",
        ),
        (
            "pte 0xc000000000010387 shift 16",
            "pte 0xc000000000010185 shift 16",
            "leaf differs in write, other bits",
        ),
        (
            "pte 0xc000000000010387 shift 16",
            "pte 0xc000000000010387 shift 21",
            "leaf of another size",
        ),
        ("single (1, 0x0)", "empty", "entry missing"),
        ("list (2, 0x0) -> (1, 0x0)", "single (1, 0x0)", "entry missing"),
        ("empty", "single (1, 0x0)", "entry too many"),
        ("single (1, 0x0)", "single (2, 0x0)", "entries differ"),
        (
            "list (2, 0x0) -> (1, 0x0)",
            "list (1, 0x0) -> (2, 0x0)",
            "entries in another form or order",
        ),
        (
            "single (1, 0x0)",
            "list (1, 0x0) -> (1, 0x0)",
            "entry repeated another number of times",
        ),
        ("3", "4", "N expected, N observed"),
        ("unknown", "0x40", "unknown expected, N observed"),
    ],
)
def test_what_differs_is_said_without_numbers(expected: str, observed: str, shape: str) -> None:
    assert shape_of(expected, observed) == shape


def test_the_place_of_a_difference_has_no_numbers() -> None:
    troubles = [
        of_differences(
            (Difference(f"vms[lpid=1].nested[l1_lpid={n}].leaves[n_gpa={n:#x}]", "no leaf", leaf),),
            Load(n, n),
        )
        for n, leaf in ((3, "pte 0xc1 shift 16"), (77, "pte 0xc7 shift 12"))
    ]
    assert {trouble.signature for trouble in troubles} == {
        "difference vms.nested.leaves: leaf too many, after access"
    }
    assert troubles[1].message.startswith("vms[lpid=1].nested[l1_lpid=77]")


def test_a_moved_host_page_has_the_place_of_its_tree() -> None:
    path = "vms[lpid=1].host_leaves[0x10000].host page"
    trouble = of_differences((Difference(path, "0x20000 as before", "0x30000"),), Fork())
    assert trouble.signature == "difference vms.host_leaves.host page: another one, after fork"


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        (Load(1, 0), "access"),
        (Store(1, 0, 5), "access"),
        (RawHcall(0xF804, (0x30000, 0x31000)), "access"),
        (RawHcall(0xF808, (1, 2, 3)), "hcall"),
        (Drop(3), "drop"),
        (DiscardMemory(0x900000, 1 << 16), "discard"),
        (Together((Load(1, 0), Fork(), Store(2, 0, 1))), "together access and fork"),
    ],
)
def test_what_the_kernel_does_is_one_word(operation: Operation, action: str) -> None:
    assert action_of(operation) == action


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ("d rmap: entry missing, after together access and discard", True),
        ("d rmap: entry missing, after access", True),
        ("d rmap: entry missing, after tlbie", False),
        ("d rmap: entry missing, after together access and tlbie", False),
        ("d leaves: leaf missing, after access", False),
        ("oops kvmhv_insert_nest_rmap", False),
    ],
)
def test_a_group_may_shrink_to_a_part_of_it_and_to_nothing_else(found: str, same: bool) -> None:
    assert covers("d rmap: entry missing, after together access and discard", found) == same


def test_what_has_no_action_covers_itself_alone() -> None:
    assert covers("oops kvmhv_insert_nest_rmap", "oops kvmhv_insert_nest_rmap")
    assert not covers("oops kvmhv_insert_nest_rmap", "oops kvmppc_unmap_pte")


def test_two_causes_at_one_place_are_two_findings_and_one_cause_is_one() -> None:
    missing = (Difference("vms[lpid=1].memslots[id=0].rmap[gfn=0x90]", "single (1, 0x0)", "empty"),)
    by_load, by_store, by_host = (
        of_differences(missing, operation).signature
        for operation in (Load(1, 0), Store(4, 8, 1), DiscardMemory(0x900000, 1 << 16))
    )
    assert by_load == by_store
    assert by_load != by_host


def test_a_warning_is_known_by_its_function_and_file() -> None:
    line = (
        "WARNING: CPU: 0 PID: 73 at arch/powerpc/kvm/book3s_64_mmu_radix.c:644 "
        "kvmppc_create_pte+0x7ac/0xa60 [kvm_hv]"
    )
    other = line.replace("644", "655").replace("PID: 73", "PID: 9").replace("0x7ac", "0x7b0")
    assert of_warning(line, "").signature == of_warning(other, "").signature
    assert of_warning(line, "").signature == (
        "warning kvmppc_create_pte arch/powerpc/kvm/book3s_64_mmu_radix.c"
    )


def test_an_oops_is_known_by_the_function_that_faulted() -> None:
    nip = "NIP [c008000000b3c0f4] kvmhv_insert_nest_rmap+0x74/0x1b0"
    tail = f"Oops: Kernel access of bad area\n{nip}\n"
    trouble = of_failure(LabFailure("oops", "the kernel says 'Oops'", tail))
    assert (trouble.kind, trouble.signature) == ("oops", "oops kvmhv_insert_nest_rmap")
    assert trouble.console == tail


def test_a_hang_is_known_by_what_the_machine_said() -> None:
    seen = {
        of_failure(LabFailure("hung", f"no answer to 'enter {n}' in 9 s", "")).signature
        for n in (1, 2)
    }
    assert seen == {"hung no answer to 'enter N' in N s"}
