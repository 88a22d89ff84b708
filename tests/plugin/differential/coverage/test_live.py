"""Coverage of a real kernel: what ran is what the State says must have run."""

from collections.abc import Iterator

import pytest

from nestscope.plugin.differential.coverage.blocks import Block
from nestscope.plugin.differential.coverage.coverage import Coverage, open_coverage
from nestscope.plugin.differential.session import LiveMachine, open_machine
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Load, Map, SetPartitionTable, permission_bits

pytestmark = pytest.mark.kernel

INSERT = "kvmhv_insert_nest_rmap"
RW = permission_bits("rwRC")


@pytest.fixture(scope="module")
def counted(kernel_files: KernelFiles) -> Iterator[tuple[LiveMachine, Coverage]]:
    """A machine of its own: the session's counts nothing."""
    with (
        Lab.boot(kernel_files, coverage=True) as lab,
        open_machine(lab) as live,
        open_coverage(lab, live.machine.kernel) as coverage,
    ):
        yield live, coverage


def test_entries_of_a_chain_run_the_blocks_that_make_them(
    counted: tuple[LiveMachine, Coverage],
) -> None:
    live, coverage = counted
    (insert,) = [some for some in coverage.functions if some.function.name == INSERT]
    blocks = {block.start: block for block in insert.blocks}

    def run(guest: Guest, *operations: Map | Load | SetPartitionTable) -> list[Block]:
        for operation in operations:
            live.machine.execute(guest.lower(operation))
        return [blocks[at] for at in coverage.new_blocks() if at in blocks]

    def pushes(block: Block) -> bool:
        return any("llist_add_batch" in i.text for i in block.instructions)

    guest = Guest()
    live.machine.execute(guest.setup())
    assert run(guest, SetPartitionTable(LAYOUT.ptcr)) == []

    page = 0x90_0000
    first = run(guest, Map(1, 0x100_0000, page, 16, RW), Load(1, 0x100_0000))
    assert insert.blocks[0] in first
    assert not any(map(pushes, first)), "a first mapping makes a single entry, no list"

    second = run(guest, Map(2, 0x100_0000, page, 16, RW), Load(2, 0x100_0000))
    assert any(map(pushes, second)), "a second mapping makes a list"

    counts = coverage.counts()
    assert run(guest, Load(2, 0x100_0000)) == [], "nothing is new about what is there"
    assert coverage.counts()[insert.blocks[0].start] == counts[insert.blocks[0].start]
