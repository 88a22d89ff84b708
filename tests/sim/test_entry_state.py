"""What H_ENTER_NESTED leaves in the guest's `hv_guest_state`, and what the model knows of it."""

import pytest

from nestscope.decoders.words.hv_guest_state import hv_guest_state
from nestscope.sim.entry_state import UNKNOWN, left_state, prepared_state
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.facts import HostFacts
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.model import Model
from nestscope.sim.trace import parse

WORDS = hv_guest_state(2, "little")
UNKNOWN_WORD = int.from_bytes(UNKNOWN, "little")


def test_what_the_kernel_does_not_save_stays_as_the_guest_gave_it() -> None:
    """`save_hv_return_state` writes times, registers and the cause of the exit."""
    left = WORDS.parse(left_state(prepared_state(5)))
    assert (left.version, left.lpid, left.lpcr, left.ciabr, left.dawrx1) == (2, 5, 1 << 25, 0, 0)
    for name in ("dpdes", "purr", "vtb", "hdar", "asdr", "heir", "srr1", "pidr", "ppr"):
        assert left[name] == UNKNOWN_WORD
    assert list(left.sprg) == [UNKNOWN_WORD] * 4


@pytest.mark.parametrize("l1_lpid", [4, 5])
def test_a_partition_table_of_words_that_only_the_machine_knows_is_not_predicted(
    l1_lpid: int,
) -> None:
    """A PTCR may put the table anywhere, there too: entry 4 is `dawr0` and `dawrx0`, 5 has a time.

    Both came from a campaign, as `ptcr`, `load`, `ptcr`, `drop`.
    """
    model, guest = Model(HostFacts()), Guest()
    for event in guest.setup():
        model.step(event)
    operations = list(
        parse(
            f"nestscope-trace 1\nptcr {LAYOUT.ptcr:#x}\nload {l1_lpid} 0x1060000\n"
            f"ptcr {LAYOUT.state:#x}\ndrop {l1_lpid}\n"
        )
    )
    *before, drop = [event for each in operations for event in guest.lower(each)]
    for event in before:
        model.step(event)
    assert list(model.kvm.nested) == [l1_lpid]
    if l1_lpid == 4:
        model.step(drop)
        assert list(model.kvm.nested) == []
    else:
        with pytest.raises(UnmodelledError, match="what only the machine knows"):
            model.step(drop)
