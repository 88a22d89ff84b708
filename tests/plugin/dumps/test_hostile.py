"""Any bytes in a dump: a State with problems, or one error that says what is wrong.

What the bytes do not touch is still listed.
"""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugin.dumps.footprint import identities
from tests.plugin.dumps.hostile import Edit, Original, look, missing, mutate, originals


@st.composite
def edits(
    draw: st.DrawFn, original: Original, place: st.SearchStrategy[int] | None = None
) -> list[Edit]:
    """Draw edits at `place`; unless it is given, most of them where the capture holds something."""
    if place is None:
        place = st.sampled_from(original.places) | st.integers(0, len(original.data) - 1)
    words = st.sampled_from(original.places).map(lambda at: original.data[at : at + 8])
    data = words | st.binary(min_size=1, max_size=8) | st.sampled_from([bytes(8), b"\xff" * 8])
    return draw(st.lists(st.builds(Edit, place, data), min_size=1, max_size=12))


def test_without_an_edit_everything_is_read() -> None:
    for original in originals():
        state = look(original.data)
        assert state is not None
        assert state.problems == ()
        assert len(state.vms) == 1


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.data())
def test_no_exception_escapes_from_a_mutated_capture(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from(originals()))
    cut = data.draw(st.none() | st.integers(0, len(original.data)))
    look(mutate(original, data.draw(edits(original)), cut))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.data())
def test_what_a_mutation_does_not_touch_is_still_listed(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from(originals()))
    made = data.draw(edits(original, st.sampled_from(original.owned)))
    assert missing(original, made, look(mutate(original, made, None))) in (None, [])


@pytest.mark.parametrize("original", originals(), ids=lambda original: original.name)
def test_each_word_that_something_hangs_on_takes_nothing_else_with_it(original: Original) -> None:
    for place in original.owned:
        made = [Edit(place, b"\xff" * 8)]
        assert missing(original, made, look(mutate(original, made, None))) == []


def test_an_object_that_is_not_listed_is_noticed() -> None:
    original = originals()[0]
    state = look(original.data)
    assert state is not None
    (vm,) = state.vms
    first, *others = vm.nested
    poorer = replace(state, vms=(replace(vm, nested=tuple(others)),))
    assert missing(original, [], state) == []
    assert ("nested", vm.kvm, first.l1_lpid) in (missing(original, [], poorer) or [])
    assert ("vm", vm.kvm) in (missing(original, [], None) or [])


def test_the_words_that_lead_to_an_object_take_only_it_with_them() -> None:
    for original in originals():
        guests = [identity for identity in original.listed if identity[0] == "nested"]
        one, other = guests[3:5]
        words = {place for place, owners in original.owners.items() if one in owners}
        shared = {place for place, owners in original.owners.items() if other in owners}
        assert words - shared
        made = [Edit(place, bytes(8)) for place in words - shared]
        state = look(mutate(original, made, None))
        assert missing(original, made, state) == []
        now = dict(identities(state)) if state is not None else {}
        assert now.get(one) != original.listed[one]
        assert now[other] == original.listed[other]


@pytest.mark.nightly
@pytest.mark.timeout(8 * 3600)
def test_two_hundred_thousand_mutated_captures() -> None:
    program = [sys.executable, "-m", "tests.plugin.dumps.hostile", "200000"]
    done = subprocess.run(program, timeout=8 * 3600, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
