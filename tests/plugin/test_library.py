"""The library: what a script or a notebook sees."""

import doctest
import io
import subprocess
import sys

import pytest
from rich.console import Console

import nestscope
from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.state import State
from nestscope.plugin import library

SAMPLE = "sample:6.12-64k"


def test_the_examples_of_the_docstrings_hold() -> None:
    result = doctest.testmod(library)
    assert result.attempted >= 5
    assert result.failed == 0


def test_a_state_is_the_state_that_everything_else_takes() -> None:
    with nestscope.open(SAMPLE) as source:
        state = source.state()
    assert isinstance(state, State)
    assert len(state.vms) == 1
    assert state.vms[0].nested


def test_a_walk_goes_through_both_stages_of_a_nested_guest_and_one_of_the_guest() -> None:
    with nestscope.open(SAMPLE) as source:
        nested = source.walk(0x0, lpid=2)
        guest = source.walk(nested.guest.leaf.real_address)  # type: ignore[union-attr]
    assert nested.guest is not None
    assert nested.shadow_agrees is True
    assert guest.guest is None
    assert guest.host == nested.host


def test_things_draw_themselves_with_rich_and_as_html() -> None:
    with nestscope.open(SAMPLE) as source:
        state, walk = source.state(), source.walk(0x0, lpid=2)
    for shown, holds in ((state, "nested guests"), (walk, "shadow tree")):
        console = Console(file=io.StringIO(), width=100)
        console.print(shown)
        assert holds in console.file.getvalue()  # type: ignore[attr-defined]
        assert shown._repr_html_().startswith("<pre")
        assert holds in shown._repr_html_()


def test_states_of_different_kernels_differ_and_the_differences_are_listed() -> None:
    with nestscope.open(SAMPLE) as one, nestscope.open("sample:6.12-4k") as other:
        differences = nestscope.compare(one.state(), other.state())
    assert differences
    assert str(differences[0]) in differences._repr_html_().replace("&#x27;", "'")


def test_what_cannot_be_opened_is_one_sentence() -> None:
    with pytest.raises(NestscopeError, match="no sample 'x'"):
        nestscope.open("sample:x")


def test_to_import_the_package_imports_nothing_heavy() -> None:
    program = "import sys, nestscope; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "rich", "construct", "pygdbmi"} & set(modules)
