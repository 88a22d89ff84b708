"""The step table: what an operation did to the chains."""

import pytest

from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Memslot,
    Source,
    State,
    Vm,
)
from nestscope.plugin.differential.runner import Tally
from nestscope.plugin.present.results import describe_result
from nestscope.plugin.present.steps import changed_chains, describe_tally
from nestscope.sim.events import Result


def state(*chains: tuple[int, int, list[tuple[int, int]]]) -> State:
    memslot = Memslot(0, 0, 1024, None, 0, None, Chains.build(chains))
    return State(
        Source("model", "m"), KernelInfo(None, 16), (Vm(1, 1, True, False, 0, (memslot,)),)
    )


def test_only_chains_that_changed_are_shown() -> None:
    before = state((1, FORM_SINGLE, [(3, 0)]), (2, FORM_SINGLE, [(3, 0x10000)]))
    after = state((1, FORM_SINGLE, [(3, 0)]), (2, FORM_LIST, [(4, 0), (3, 0x10000)]))
    assert changed_chains(before, after) == ["0x2: (4, 0x0) (3, 0x10000)"]


def test_a_chain_that_went_is_shown_as_empty() -> None:
    assert changed_chains(state((1, FORM_SINGLE, [(3, 0)])), state()) == ["0x1: empty"]


def test_before_the_first_step_everything_is_new() -> None:
    assert changed_chains(None, state((7, FORM_SINGLE, [(3, 0)]))) == ["0x7: (3, 0x0)"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result(0), ""),
        (Result(2**64 - 4), "H_PARAMETER"),
        (Result(0xC00, value=0x12, nip=0x40), "done, value 0x12"),
        (Result(0xE00, hdsisr=0x40000000, nip=0), "HDSI hdsisr 0x40000000"),
        (Result(0xE20, nip=0), "HISI"),
        (Result(0x980, nip=0), "hypervisor decrementer"),
    ],
)
def test_results_speak_the_fields_words(result: Result, text: str) -> None:
    assert describe_result(result) == text


def test_the_tally_counts_what_was_compared() -> None:
    tally = Tally()
    tally.add(state((1, FORM_LIST, [(3, 0), (4, 0)])))
    tally.add(state())
    assert (tally.steps, tally.chains, tally.entries, tally.leaves) == (2, 1, 2, 0)
    assert describe_tally(tally, 0.5).endswith("4 steps/s")
