"""Nothing of the audit fires on healthy kernels, and what does is explained by its cause."""

from dataclasses import replace

import pytest

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.state import State
from nestscope.plugin.differential.campaign.known import Context
from nestscope.plugin.differential.campaign.station import Station
from nestscope.plugin.differential.campaign.tasks import Options, Target
from nestscope.plugin.differential.healthy import Health, audit_programs, explain
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.initramfs import build_agent
from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel
from tests.sim.states import PAGE, RWXRC, chain, guest, slot, state, vm

N, GPA, GFN = 0x100_0000, 0x90_0000, 0x90
M2 = 1 << 21


@pytest.mark.nightly
@pytest.mark.kernel
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("machine", ["pseries", "powernv9"])
@pytest.mark.parametrize("kernel", FLAVOURS)
def test_a_thousand_random_programs(kernel: str, machine: str) -> None:
    try:
        build_agent()
        fetch_kernel(kernel)
    except LabError as problem:
        pytest.skip(str(problem))
    found = Health()
    with Station(Target(kernel, machine), Options()) as station:
        for found in audit_programs(station, range(1, 1001), 10):  # noqa: B007  the last one
            pass
    print(f"{kernel} on {machine}: {found}")
    assert found.unexplained == []
    assert found.differing == 0
    assert (found.programs, found.failed) == (1000, 0)
    assert found.states > 8_000
    assert found.clean > 500  # the others are finding 0001


def explained(known: State, *before: State) -> dict[str, str | None]:
    """Explain every finding of a State that was observed after others."""
    context = Context()
    for each in (*before, known):
        context.learn(each)
    found = audit(known, rc_by_hardware=False)
    return {each.rule: explain(context, each, known) for each in found}


ZERO = slot(chain(GFN, (2, N), (0, 0), (1, N)))
LOST = vm(nested=[guest(1, [(N, 16, RWXRC | GPA)])], memslots=[slot()])


def test_what_stands_behind_a_zero_entry_is_finding_0001() -> None:
    zero = state(vm(host=[(GPA, 16, RWXRC | GPA)], memslots=[ZERO]))
    assert explained(zero)["I5.zero-entry"] == "0001"
    later = explained(state(LOST), zero)
    assert later == {"I1": "0001", "shadow.freed-page": "0001"}


def test_a_leaf_that_no_zero_entry_hid_is_not_explained() -> None:
    assert explained(state(LOST)) == {"I1": None, "shadow.freed-page": None}
    other = state(vm(memslots=[slot(chain(GFN, (2, N), (0, 0), (1, N + PAGE)))]))
    assert explained(state(LOST), other)["I1"] is None


@pytest.mark.parametrize(
    ("leaf", "number"),
    [
        ((0, 21, RWXRC), "0003"),  # the memslot begins inside of it
        ((4 * M2, 21, RWXRC), None),
        ((PAGE, 16, RWXRC), None),
    ],
)
def test_only_a_huge_leaf_that_is_in_part_inside_is_finding_0003(
    leaf: tuple[int, int, int], number: str | None
) -> None:
    memslot = replace(slot(), base_gfn=16, npages=16)
    assert explained(state(vm(host=[leaf], memslots=[memslot]))) == {"host.outside-memslot": number}
