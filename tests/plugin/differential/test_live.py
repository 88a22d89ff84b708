"""The model against a live kernel: no difference, and none can hide."""

from itertools import islice
from pathlib import Path

import pytest

from nestscope.decoders.kernel.kernel import open_kernel
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import Leaves, State, Vm
from nestscope.decoders.state_json import to_json
from nestscope.plugin.differential.inject import flip_rmap_word
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import LiveComparison, Via, open_comparison
from nestscope.plugin.qemu.lab import Lab
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


def test_random_operations_read_through_gdb_agree(clean_lab: Lab) -> None:
    with open_comparison(clean_lab, Via.MI) as live:
        assert run(live, random(3, 60)) == []


@pytest.mark.parametrize("via", list(Via))
def test_a_flipped_rmap_word_in_the_kernel_is_noticed_at_its_gfn(clean_lab: Lab, via: Via) -> None:
    with open_comparison(clean_lab, via) as live:
        assert run(live, list(SCENARIO[:3])) == []
        changed: list[int] = []
        step = live.comparison.step(SCENARIO[3], lambda: changed.append(flip_rmap_word(live)))
        assert len(changed) == 1
        assert [difference.path for difference in step.differences] == [
            f"vms[lpid=1].memslots[id=0].rmap[gfn={changed[0]:#x}]"
        ]


def test_shared_ram_and_gdb_read_the_same_state(clean_lab: Lab) -> None:
    with open_comparison(clean_lab, Via.MI) as live:
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
    assert listed(clean_lab, then.vms[0]) == {}


def listed(lab: Lab, vm: Vm) -> dict[int, tuple[object, object]]:
    """Compare a VM's leaves with the kernel's own debugfs listing; return what differs."""
    (reply,) = lab.agent.must(["listing"])
    trees: dict[int, list[tuple[int, int, int]]] = {}
    lpid = 0
    for line in reply.payload().decode().splitlines():
        words = line.replace(":", " ").split()
        if not words:
            continue
        if words[0] == "Nested":
            lpid = int(words[-1])
        elif len(words) == 3 and words[0] != "pgdir":
            gpa, pte, shift = words
            trees.setdefault(lpid, []).append((int(gpa, 16), int(shift), int(pte, 16)))
    ours = {0: vm.host_leaves} | {guest.l1_lpid: guest.leaves for guest in vm.nested}
    return {
        lpid: (sorted(trees.get(lpid, [])), list(ours.get(lpid, Leaves())))
        for lpid in {*trees, *ours}
        if sorted(trees.get(lpid, [])) != [tuple(leaf) for leaf in ours.get(lpid, Leaves())]
    }
