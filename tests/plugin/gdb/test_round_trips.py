"""What a command costs at the stub, counted in packets by a proxy in between."""

from pathlib import Path

import pytest

from nestscope.plugin.gdb.terminal import GdbTerminal

from .conftest import World
from .proxy import CountingProxy

pytestmark = pytest.mark.kernel

MAX_ROUND_TRIPS = 10
LONG_CHAIN = 60


@pytest.fixture(scope="module")
def long_chain(world: World) -> int:
    """Map one guest page into a nested guest 60 times; return its gfn."""
    page = 0x91_0000
    lines = [
        f"map 2 {0x800_0000 + at * 0x1_0000:#x} {page:#x} 64K rwxRC" for at in range(LONG_CHAIN)
    ]
    loads = [f"load 2 {0x800_0000 + at * 0x1_0000:#x}" for at in range(LONG_CHAIN)]
    world.execute(*lines, *loads)
    shift = world.state().kernel.page_shift
    assert shift is not None
    chain = world.vm.memslots[0].rmap.of(page >> shift)
    assert chain is not None
    assert len(chain.entries) >= LONG_CHAIN
    return page >> shift


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_a_chain_lookup_costs_at_most_ten(
    world: World, long_chain: int, socket_folder: Path, tcp: bool
) -> None:
    with (
        CountingProxy(socket_folder / "stub", world.lab.gdb_socket, tcp=tcp) as proxy,
        GdbTerminal([world.lab.kernel.vmlinux]) as gdb,
    ):
        gdb.run(f"target remote {proxy.name}")
        banner = gdb.run("output/x *(unsigned long *)&linux_banner")
        gdb.run("nested target")  # the kernel is examined once for each connection
        costs: dict[str, list[int]] = {}
        for command in (f"nested chain {long_chain:#x}", "nested chain 0x90", "nested vms"):
            for _ in range(2):
                gdb.run("stepi")
                before = len(proxy.packets)
                assert "0x" in gdb.run(command)
                costs.setdefault(command, []).append(len(proxy.packets) - before)
        again = len(proxy.packets)
        gdb.run("nested chain 0x90")
        gdb.run("nested chain 0x90")
        same_stop = len(proxy.packets) - again
        gdb.run("nested check")
        banner_after = gdb.run("output/x *(unsigned long *)&linux_banner")
        gdb.run("detach")
    assert all(cost <= MAX_ROUND_TRIPS for each in costs.values() for cost in each), costs
    assert same_stop <= MAX_ROUND_TRIPS
    # The physical mode is off again: the same address means the same as before.
    assert banner_after == banner == hex(int.from_bytes(b"Linux ve", "little"))


def test_nothing_is_read_unless_asked(world: World, socket_folder: Path) -> None:
    """A stop brings no packet of ours, also after the plugin was used."""
    with (
        CountingProxy(socket_folder / "stub", world.lab.gdb_socket) as proxy,
        GdbTerminal([world.lab.kernel.vmlinux]) as gdb,
    ):
        gdb.run(f"target remote {proxy.path}")
        gdb.run("nested vms")
        before = len(proxy.packets)
        for _ in range(4):
            gdb.run("stepi")
        packets = proxy.packets[before:]
        gdb.run("detach")
    assert packets
    assert not [packet for packet in packets if b"qRcmd" in packet or b"PhyMemMode" in packet]
