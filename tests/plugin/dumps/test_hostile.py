"""Any bytes in a dump: a State with problems, or one error that says what is wrong."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugin.dumps.hostile import Edit, Original, look, mutate, originals


@st.composite
def edits(draw: st.DrawFn, original: Original) -> list[Edit]:
    """Draw edits: most of them where the capture holds something."""
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


@pytest.mark.nightly
@pytest.mark.timeout(8 * 3600)
def test_two_hundred_thousand_mutated_captures() -> None:
    program = [sys.executable, "-m", "tests.plugin.dumps.hostile", "200000"]
    done = subprocess.run(program, timeout=8 * 3600, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
