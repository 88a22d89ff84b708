"""A breakpoint at a function's local entry point, in the running kernel."""

import pytest

from nestscope.decoders.words.rmap import make_entry
from nestscope.plugin.differential.session import Via, open_comparison
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse

pytestmark = pytest.mark.kernel

PREPARED = """nestscope-trace 1
ptcr 0x40004
map 1 0x1000000 0x900000 64K rwxRC
"""


def test_the_kernel_stops_where_an_rmap_entry_is_about_to_be_inserted(clean_lab: Lab) -> None:
    with open_comparison(clean_lab, Via.MI) as live:
        for operation in parse(PREPARED):
            assert live.comparison.step(operation).differences == ()
        session, kernel = live.session, live.machine.kernel
        assert session is not None
        vm = live.machine.state().vms[0]
        # Calls inside the module never pass the global entry point (ELFv2).
        function = kernel.symbol("kvmhv_insert_nest_rmap")
        assert function.local_entry == function.address + 8
        with session.stopped():
            number = session.break_at(function.local_entry)
        clean_lab.agent.submit([f"enter 1 0x0 0x1000000 0 0 {LAYOUT.state:#x}"])
        inserted = []
        for _ in range(2):
            session.wait_stop(10)
            # kvmhv_insert_nest_rmap(kvm, rmapp, &n_rmap)
            seen = session.read_registers("nip", "r3", "r4", "r5", "lpidr")
            assert (seen["nip"], seen["r3"]) == (function.local_entry, vm.kvm)
            assert seen["lpidr"] == 0
            kernel.memory.forget()
            node = kernel.memory.u64(seen["r5"])
            array = vm.memslots[0].rmap_array
            assert array is not None
            inserted.append(((seen["r4"] - array) // 8, kernel.memory.u64(node + 8)))
            if len(inserted) == 2:
                session.delete_breakpoint(number)
            session.cont()
        (reply,) = clean_lab.agent.collect(1)
        after = live.machine.state()
    shift = kernel.page_shift
    assert inserted == [
        (LAYOUT.payload >> shift, make_entry(1, 0)),
        (0x90_0000 >> shift, make_entry(1, 0x100_0000)),
    ]
    assert reply["ret"] == 0xC00
    assert [chain.gfn for chain in after.vms[0].memslots[0].rmap] == [gfn for gfn, _ in inserted]
