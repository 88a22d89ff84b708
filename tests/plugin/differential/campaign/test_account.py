"""The account of a finding: what a kernel developer needs to act, on one page."""

from nestscope.decoders.compare import Difference
from nestscope.plugin.differential.campaign.account import write_account
from nestscope.plugin.differential.campaign.actions import PATHS
from nestscope.plugin.differential.campaign.tasks import ShrunkFinding, Target
from nestscope.plugin.differential.campaign.trouble import Trouble, of_differences, of_failure
from nestscope.plugin.qemu.errors import LabFailure
from nestscope.sim.invariants import Violation
from nestscope.sim.operations import DiscardMemory, Load, Operation, SetPartitionTable
from nestscope.sim.trace import parse

TARGET = Target("6.12-64k", "powernv9")
GONE = (Difference("vms[lpid=1].memslots[id=0].rmap[gfn=0x90]", "single (1, 0x0)", "empty"),)
LOST_LEAF = Violation("I1", "entry", "error", "the shadow leaf has no entry", l1_lpid=1, n_gpa=0)
PROGRAM: tuple[Operation, ...] = (SetPartitionTable(0x40004), Load(1, 0))
CAPTURES = {"before.elf.xz": b"", "after.elf.xz": b"", "console.log": b""}


def page(trouble: Trouble, *operations: Operation, reproduced: bool = True) -> str:
    program = operations or PROGRAM
    found = ShrunkFinding(trouble, program, 5, 1.0, reproduced, "6.12.107", CAPTURES)
    trace, text = write_account("difference-1", TARGET, found)
    assert tuple(parse(trace)) == program
    return text


def test_it_says_where_what_and_how_to_see_it_again() -> None:
    text = page(of_differences(GONE, Load(1, 0)))
    for said in (
        "6.12.107 (`6.12-64k`)",
        "QEMU `powernv9`",
        "| `vms[lpid=1].memslots[id=0].rmap[gfn=0x90]` | single (1, 0x0) | empty |",
        "    # here\n    load 1 0x0",
        "nestscope diff --audit --kernel 6.12-64k --machine powernv9 trace",
        "nestscope check after.elf.xz",
        "access: `kvmhv_enter_nested_guest` -> `kvmhv_nested_page_fault`",
    ):
        assert said in text


def test_the_way_is_that_of_the_last_operation() -> None:
    text = page(of_differences(GONE, Load(1, 0)), *PROGRAM, DiscardMemory(0x900000, 1 << 16))
    assert "discard: `kvm_mmu_notifier_invalidate_range_start`" in text
    assert "kvmhv_enter_nested_guest" not in text


def test_a_broken_invariant_beside_a_difference_is_told_and_marked() -> None:
    plain = page(of_differences(GONE, Load(1, 0)))
    broken = page(of_differences(GONE, Load(1, 0), (LOST_LEAF,)))
    assert "Security" not in plain
    assert "I1: every shadow leaf has an rmap entry" in broken
    assert "**Security.**" in broken
    assert "in private" in broken.replace("\n", " ")


def test_what_stops_the_host_is_marked() -> None:
    for kind in ("oops", "panic", "hung"):
        failure = LabFailure(kind, "no answer", "NIP [c0] kvmhv_insert_nest_rmap+0x74/0x1b0\n")
        assert "**Security.**" in page(of_failure(failure))
    died = LabFailure("died", "QEMU ended", "")
    assert "Security" not in page(of_failure(died))


def test_a_finding_of_a_seeded_defect_cannot_be_taken_for_a_real_one() -> None:
    trouble = of_differences(GONE, Load(1, 0), (LOST_LEAF,))
    found = ShrunkFinding(
        trouble, PROGRAM, 5, 1.0, True, "6.12.107", CAPTURES, defects=("wrong-mask",)
    )
    _, text = write_account("difference-1", TARGET, found)
    assert "| **seeded** | wrong-mask: put into this kernel on purpose |" in text
    assert "Security" not in text
    assert "seeded" not in page(trouble)


def test_what_did_not_show_again_is_said() -> None:
    text = page(of_differences(GONE, Load(1, 0)), reproduced=False)
    assert "did not show again" in text


def test_ways_are_of_function_names_only() -> None:
    for names in PATHS.values():
        for choice in names:
            for name in choice.split("|"):
                assert name.isidentifier(), name
