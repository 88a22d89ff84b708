"""The model against a live kernel: no difference, and none can hide."""

from itertools import islice
from pathlib import Path

import pytest

from nestscope.decoders.kernel.kernel import open_kernel
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import State
from nestscope.decoders.state_json import to_json
from nestscope.plugin.differential.inject import flip_rmap_word
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import LiveComparison, Via, open_comparison
from nestscope.plugin.qemu.lab import Lab
from nestscope.plugin.qemu.listing import HOST_TREE, parse_listing
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation

pytestmark = pytest.mark.kernel


def run(live: LiveComparison, operations: list[Operation]) -> list[str]:
    """Compare step by step and return the first step's differences."""
    for operation in operations:
        step = live.comparison.step(operation)
        if step.differences:
            return [f"step {step.number}: {difference}" for difference in step.differences]
    return []


def random(seed: int, steps: int) -> list[Operation]:
    return list(islice(random_operations(seed, LAYOUT), steps))


def without_source(state: State) -> str:
    text = to_json(state)
    return text[text.index('"kernel"') :]


def test_the_scenario_shows_every_form_of_the_rmap_and_no_difference(clean_lab: Lab) -> None:
    forms = set()
    with open_comparison(clean_lab) as live:
        for operation in SCENARIO:
            step = live.comparison.step(operation)
            assert step.differences == ()
            for chain in step.observed.vms[0].memslots[0].rmap:
                forms.add(chain.form)
    assert forms == {"single", "list"}


@pytest.mark.parametrize("seed", [1, 11])
def test_random_operations_read_through_shared_ram_agree(clean_lab: Lab, seed: int) -> None:
    with open_comparison(clean_lab) as live:
        assert run(live, random(seed, 400)) == []


@pytest.mark.parametrize(("via", "steps"), [(Via.MI, 60), (Via.MI_PACKETS, 25)])
def test_random_operations_read_through_gdb_agree(clean_lab: Lab, via: Via, steps: int) -> None:
    with open_comparison(clean_lab, via) as live:
        assert run(live, random(3, steps)) == []


@pytest.mark.parametrize("via", [Via.RAM, Via.MI])
def test_a_flipped_rmap_word_in_the_kernel_is_noticed_at_its_gfn(clean_lab: Lab, via: Via) -> None:
    with open_comparison(clean_lab, via) as live:
        assert run(live, list(SCENARIO[:3])) == []
        changed: list[int] = []
        step = live.comparison.step(SCENARIO[3], lambda: changed.append(flip_rmap_word(live)))
        assert len(changed) == 1
        assert [difference.path for difference in step.differences] == [
            f"vms[lpid=1].memslots[id=0].rmap[gfn={changed[0]:#x}]"
        ]


@pytest.mark.parametrize("via", [Via.MI, Via.MI_PACKETS])
def test_shared_ram_and_gdb_read_the_same_state(clean_lab: Lab, via: Via) -> None:
    with open_comparison(clean_lab, via) as live:
        assert run(live, random(5, 80)) == []
        through_gdb = live.machine.state()
        memory, source = open_source(f"ram:{clean_lab.ram_path}")
        with memory:
            through_ram = read_state(memory, live.machine.kernel, source)
    assert without_source(through_gdb) == without_source(through_ram)
    assert len(through_gdb.vms[0].host_leaves) > 5


def test_a_dump_gives_the_state_of_the_moment_it_was_taken(clean_lab: Lab, tmp_path: Path) -> None:
    dump = tmp_path / "dump.elf"
    with open_comparison(clean_lab) as live:
        assert run(live, random(7, 120)) == []
        clean_lab.qmp.dump_guest_memory(dump)
        now = live.machine.state()
    memory, source = open_source(dump)
    with memory:
        files = clean_lab.kernel
        kernel = open_kernel(memory, files.vmlinux, files.modules_dir)
        then = read_state(memory, kernel, source)
    assert then.source.kind == "elf-core"
    assert then.problems == ()
    assert without_source(then) == without_source(now)


def test_the_leaves_equal_the_kernels_own_listing(clean_lab: Lab) -> None:
    with open_comparison(clean_lab) as live:
        assert run(live, random(9, 150)) == []
        (reply,) = clean_lab.agent.must(["listing"])
        vm = live.machine.state().vms[0]
    listed = {tree: list(leaves) for tree, leaves in parse_listing(reply.data.decode()).items()}
    read = {HOST_TREE: list(vm.host_leaves)}
    # The kernel's listing leaves nested guest 0 out.
    read |= {guest.l1_lpid: list(guest.leaves) for guest in vm.nested if guest.l1_lpid}
    assert read == listed
    assert len(read) > 5
