"""The samples that come with the package: small, whole, and the default source."""

import subprocess
import sys

import pytest

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.samples import sample_names, sample_path
from nestscope.plugin.target import open_target


def test_the_three_kernels_are_there_and_the_newest_with_64k_pages_comes_first() -> None:
    assert sample_names() == ["6.12-64k", "6.1-64k", "6.12-4k"]


@pytest.mark.parametrize("name", ["6.12-64k", "6.12-4k", "6.1-64k"])
def test_a_sample_is_small_and_shows_chains_of_all_forms(name: str) -> None:
    assert sample_path(f"sample:{name}").stat().st_size < 1_000_000
    with open_target(f"sample:{name}") as target:
        state = target.state()
    assert state.problems == ()
    version, pages = name.split("-")
    assert (state.kernel.release or "").startswith(version)
    assert state.kernel.page_shift == {"4k": 12, "64k": 16}[pages]
    (vm,) = state.vms
    forms = {chain.form for slot in vm.memslots for chain in slot.rmap}
    assert forms == {"single", "list"}
    assert len(vm.host_leaves) > 5
    assert sum(len(guest.leaves) for guest in vm.nested) > 5


def test_an_unknown_sample_is_named_with_those_that_exist() -> None:
    with pytest.raises(NestscopeError, match=r"'7\.0'.*sample:6\.12-64k"):
        sample_path("sample:7.0")


def test_state_without_a_source_shows_the_first_sample_and_says_so() -> None:
    program = [sys.executable, "-c", "from nestscope.plugin.cli.main import run; run()"]
    done = subprocess.run(
        [*program, "state"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "sample:6.12-64k" in done.stderr
    assert "6.12." in done.stdout
    named = subprocess.run(
        [*program, "state", "sample:6.12-64k"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert named.stdout == done.stdout
    assert named.stderr == ""
