"""A station on a real kernel: resets that are clean, judgement, shrinking, defects."""

from collections.abc import Iterator
from itertools import islice

import pytest

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.state import State
from nestscope.plugin.differential.campaign.actions import covers
from nestscope.plugin.differential.campaign.defects import DEFECTS, Defect
from nestscope.plugin.differential.campaign.program import run_program
from nestscope.plugin.differential.campaign.record import shrink_and_record
from nestscope.plugin.differential.campaign.station import Station
from nestscope.plugin.differential.campaign.tasks import Options, ShrinkTask, Target
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.sim.generate import random_operations
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
from nestscope.sim.trace import parse

pytestmark = pytest.mark.kernel


def random(seed: int, steps: int) -> tuple[Operation, ...]:
    return tuple(islice(random_operations(seed, LAYOUT), steps))


@pytest.fixture(scope="module")
def station(kernel_files: KernelFiles) -> Iterator[Station]:
    with Station(Target(kernel_files.name, "pseries"), Options()) as made:
        yield made


def objects_of(kernel: Kernel, cache: int) -> int:
    """Objects that the slabs of a kmem_cache have room for, used or not."""
    types, memory = kernel.types, kernel.memory
    node = memory.u64(cache + types.offset("kmem_cache", "node[0]"))
    return memory.u64(node + types.offset("kmem_cache_node", "total_objects"))


def caches(kernel: Kernel) -> dict[str, int]:
    """Room in the slabs of the shadow trees' tables and of the rmap's nodes (16 bytes)."""
    memory = kernel.memory
    memory.forget()
    sixteen_bytes = kernel.symbol("kmalloc_caches").address + 4 * 8
    pointers = {
        "kvm-pte": kernel.symbol("kvm_pte_cache").address,
        "kvm-pmd": kernel.symbol("kvm_pmd_cache").address,
        "kmalloc-16": sixteen_bytes,
    }
    return {name: objects_of(kernel, memory.u64(at)) for name, at in pointers.items()}


def lpids(kernel: Kernel) -> int:
    """The word in which the kernel keeps the LPIDs in use while there are few (`lpid_inuse`)."""
    kernel.memory.forget()
    return kernel.memory.u64(
        kernel.symbol("lpid_inuse").address + kernel.types.offset("ida", "xa.xa_head")
    )


TABLES, GUESTS = 48, 12
LITTER = "\n".join(
    [
        "nestscope-trace 1",
        f"ptcr {LAYOUT.ptcr:#x}",
        *(
            f"map 1 {(at + 8) << 30:#x} 0x900000 64K rwxRC\nload 1 {(at + 8) << 30:#x}"
            for at in range(TABLES)
        ),
        *(
            f"map {guest} 0x1000000 0x910000 64K rwxRC\nload {guest} 0x1000000"
            for guest in range(1, GUESTS + 1)
        ),
    ]
)
"""Many tables of a shadow tree, and a chain with many nodes."""


@pytest.mark.parametrize("rounds", [4, pytest.param(40, marks=pytest.mark.nightly)])
def test_a_reset_leaves_nothing_of_the_vm(station: Station, rounds: int) -> None:
    booted = station.booted()
    kernel, agent = booted.machine.kernel, booted.lab.agent
    agent.must(["destroy"])
    clean = lpids(kernel)
    operations = list(parse(LITTER))
    seen: list[dict[str, int]] = []
    made = State(booted.machine.state().source, kernel.info)
    for number in range(rounds):
        guest = Guest(LAYOUT)
        events = [event for operation in operations for event in guest.lower(operation)]
        booted.machine.execute([*guest.setup(), *events])
        if number == 0:
            made = booted.machine.state()
            assert lpids(kernel) != clean
        agent.must(["destroy"])
        assert booted.machine.state().vms == ()
        assert lpids(kernel) == clean
        seen.append(caches(kernel))
    vm = made.vms[0]
    assert len(next(guest for guest in vm.nested if guest.l1_lpid == 1).leaves) > TABLES
    assert len(vm.memslots[0].rmap.entries) >= TABLES + 2 * GUESTS
    growth = {name: seen[-1][name] - seen[1][name] for name in seen[-1]}
    # Had the tables and nodes of every round stayed, there would be room for them all; a
    # slab has 256 tables of 64K pages, so only many rounds can tell.
    allowed = max(256, TABLES * (rounds - 2) // 4)
    assert growth["kvm-pte"] <= allowed
    assert growth["kvm-pmd"] <= allowed
    assert growth["kmalloc-16"] <= max(4096, allowed)


def test_a_program_gives_the_same_in_every_vm(station: Station) -> None:
    first = run_program(station, random(4, 60))
    second = run_program(station, random(4, 60))
    assert first.trouble is None
    assert (first.steps, first.compared, first.known) == (60, second.compared, second.known)
    assert first.blocks
    assert not second.blocks, "what was reached before is not new"


@pytest.mark.parametrize(
    ("name", "signature", "length"),
    [
        ("wrong-mask", "difference vms.memslots.rmap: entry missing, after access", 4),
        ("entry-dropped", "difference vms.memslots.rmap: entry missing, after access", 3),
    ],
)
def test_a_seeded_defect_is_found_and_shrunk(
    kernel_files: KernelFiles, name: str, signature: str, length: int
) -> None:
    target = Target(kernel_files.name, "pseries")
    with station_with(target, DEFECTS[name]) as hurt:
        # Which seed shows it changes with the generator.
        results = (run_program(hurt, random(seed, 100)) for seed in range(1, 11))
        result = next(each for each in results if each.trouble is not None)
        assert result.trouble is not None
        assert covers(result.trouble.signature, signature)
        task = ShrinkTask(target, result.trouble.signature, result.executed)
        found = shrink_and_record(hurt, task)
    assert found.reproduced
    assert found.trouble.signature == signature
    assert len(found.operations) == length
    assert set(found.files) == {
        "before.elf.xz",
        "after.elf.xz",
        "console.log",
        "difference.json",
        "difference.txt",
    }


def station_with(target: Target, defect: Defect) -> Station:
    strikes = [defect.strike] if defect.strike is not None else []
    return Station(target, Options(), [defect.prepare], strikes)


IMPOSSIBLE = (
    "age 0x4400000 0x10000",
    "collapse 0xffffffffffffffff 2M",
    "tlbie ric=18446744073709551608 prs=0 r=1 is=0 lpid=1 ap=5 epn=0xfffffff000",
    "write 0x5c10000 0x1",
)


def program(*lines: str) -> tuple[Operation, ...]:
    return tuple(parse("\n".join(["nestscope-trace 4", *lines])))


def test_what_no_vmm_can_ask_for_is_left_out_and_no_trouble(station: Station) -> None:
    """Mutation and shrinking make such operations; the agent refuses them and does nothing."""
    result = run_program(station, program(*IMPOSSIBLE, f"ptcr {LAYOUT.ptcr:#x}"))
    assert result.trouble is None
    assert result.refused == len(IMPOSSIBLE)
    assert result.steps == 1


def test_a_group_is_refused_as_a_whole_before_anything_of_it_runs(station: Station) -> None:
    """The first vCPUs would leave shadow leaves, the state page would be written, if it ran."""
    usual = (f"ptcr {LAYOUT.ptcr:#x}", "map 1 0x1000000 0x900000 64K rwxRC")
    for impossible in (
        "discard 0x9000000 0x10000",
        "age 0x900000 0x1000000",
        "slotflags 5 1",
        "write 0x9000000 0x1",
        "split 0x9000000 2M",
        "thp 0x9000000 0x200000 on",
        "tlbie ric=18446744073709551608 prs=0 r=1 is=0 lpid=1 ap=5 epn=0x0",
    ):
        group = f"together load 1 0x1000000 | {impossible}"
        result = run_program(station, program(*usual, group, "drop 1", "discard 0x30000 0x20000"))
        assert (result.trouble, result.unmodelled, result.refused) == (None, None, 1), impossible
        # No chain, and in each of 4 steps only the leaves of the stub and of its mailbox.
        assert result.compared == (0, 0, 4 * 2), impossible
    # What may be done is still done: nothing of the groups before is queued.
    load = "together load 1 0x1000000"
    result = run_program(station, program(*usual, load, "load 1 0x1000000"))
    assert (result.trouble, result.refused, result.steps) == (None, 0, 4)


def test_without_a_vm_everything_but_a_new_one_is_refused(station: Station) -> None:
    twice = ("destroy", "destroy", *IMPOSSIBLE, "load 1 0x1000000", "create", "create")
    result = run_program(station, program(*twice, f"ptcr {LAYOUT.ptcr:#x}"))
    assert (result.trouble, result.unmodelled) == (None, None)
    assert result.refused == 3 + len(IMPOSSIBLE)
    assert result.steps == 3
