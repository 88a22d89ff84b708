"""The ways to a live target's memory, on a stand-in for GDB that counts what it is asked."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.chains import read_chain
from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.memory import LINEAR_START, KernelMemory
from nestscope.decoders.sources.protocol import BulkMemory
from nestscope.decoders.words.rmap import make_entry
from nestscope.plugin.gdb.worker.gdb_side import GdbSide
from nestscope.plugin.gdb.worker.live_memory import MAX_XP, LiveMemory
from nestscope.plugin.gdb.worker.nodes import SLAB, NodeMemory
from nestscope.plugin.mi.pages import PAGE

SIZE = 4 << 20
RAM = np.random.default_rng(7).bytes(SIZE)
MTREE = f"""FlatView #0
 AS "memory", root: system
  0000000000000000-{SIZE - 1:016x} (prio 0, ram): ram
"""


class StandIn:
    """GDB as the worker sees it. `saves`: QEMU can write to our files."""

    def __init__(self, *, saves: bool = True, bad: Sequence[int] = (), ram: bytes = RAM) -> None:
        self.saves = saves
        self.ram = ram
        self.bad = set(bad)
        self.asked: list[str] = []

    def monitor(self, command: str) -> str:
        self.asked.append(re.match(r"\w+", command)[0])  # type: ignore[index]
        if command == "info mtree -f":
            return MTREE
        save = re.fullmatch(r'pmemsave (\w+) (\w+) "(.*)"', command)
        if save:
            address, length = int(save[1], 16), int(save[2], 16)
            if self.saves:
                Path(save[3]).write_bytes(self.ram[address : address + length])
            return "" if self.saves else "Could not open the file"
        printed = re.fullmatch(r"xp/(\d+)gx (\w+)", command)
        assert printed is not None, command
        start = int(printed[2], 16)
        lines = []
        for at in range(start, start + 8 * int(printed[1]), 16):
            words = [int.from_bytes(RAM[here : here + 8], "big") for here in (at, at + 8)]
            lines.append(f"{at:016x}: " + " ".join(f"{word:#018x}" for word in words))
        return "\r\n".join(lines)

    def read_runs(self, how: str, runs: Sequence[tuple[int, int]]) -> tuple[bytes, set[int]]:
        self.asked.append(how)
        base = LINEAR_START if how == "virtual" else 0
        parts, bad = [], set()
        for number, (address, length) in enumerate(runs):
            pages = range((address - base) // PAGE, (address - base + length) // PAGE)
            if self.bad & set(pages):
                bad.add(number)
            parts.append(RAM[address - base : address - base + length])
        return b"".join(parts), bad


def memory_of(gdb: StandIn, *, qemu: bool = True, unix: bool = True) -> LiveMemory:
    return LiveMemory(cast(GdbSide, gdb), qemu=qemu, unix=unix)


WAYS = {
    "saved": {"qemu": True, "unix": True},
    "printed": {"qemu": True, "unix": False},
    "linear map": {"qemu": False, "unix": False},
}


@pytest.mark.parametrize("way", WAYS)
@given(
    st.lists(
        st.tuples(st.integers(0, SIZE - 1), st.integers(0, 3 * PAGE)).filter(
            lambda place: sum(place) <= SIZE
        ),
        max_size=8,
    )
)
def test_every_way_gives_the_same_bytes(way: str, places: list[tuple[int, int]]) -> None:
    memory = memory_of(StandIn(), **WAYS[way])
    assert isinstance(memory, BulkMemory)
    for address, length in places:
        assert memory.read(address, length) == RAM[address : address + length]
    addresses = np.array([address for address, _ in places if address + 16 <= SIZE], np.uint64)
    rows, good = memory_of(StandIn(), **WAYS[way]).read_many(addresses, 16)
    assert good.all()
    assert [row.tobytes() for row in rows] == [RAM[at : at + 16] for at in addresses.tolist()]


def test_a_page_is_fetched_once_until_the_target_runs() -> None:
    gdb = StandIn()
    memory = memory_of(gdb)
    memory.read(100, 8)
    memory.read(200, 8)
    assert gdb.asked.count("pmemsave") == 1
    memory.forget()
    memory.read(100, 8)
    assert gdb.asked.count("pmemsave") == 2


def test_qemu_that_cannot_write_our_file_is_read_by_packets() -> None:
    gdb = StandIn(saves=False)
    memory = memory_of(gdb)
    assert memory.read(0, 8) == RAM[:8]
    assert memory.read(1 << 20, 8) == RAM[1 << 20 :][:8]
    # It is tried once, and `xp` is never used on a unix socket.
    assert gdb.asked == ["info", "pmemsave", "physical", "physical"]


def test_much_over_tcp_comes_in_packets_and_little_is_printed() -> None:
    gdb = StandIn()
    memory = memory_of(gdb, unix=False)
    memory.read(0, 8)
    memory.read(1 << 20, MAX_XP + PAGE)
    assert gdb.asked == ["info", "xp", "physical"]


def test_one_page_that_the_stub_cannot_read_does_not_hide_the_others() -> None:
    memory = memory_of(StandIn(bad=[5]), qemu=False, unix=False)
    memory.need(range(16))
    assert memory.read(4 * PAGE, PAGE) == RAM[4 * PAGE : 5 * PAGE]
    with pytest.raises(UnreadableMemoryError, match=r"0x5008.*the stub cannot read it"):
        memory.read(5 * PAGE + 8, 8)
    _, good = memory.read_many(np.array([4 * PAGE, 5 * PAGE, 6 * PAGE], np.uint64), 8)
    assert good.tolist() == [True, False, True]


def test_nodes_scattered_over_a_slab_are_fetched_together() -> None:
    """A list of 200 nodes, in random order on the 4 KiB pages of 64 KiB, in two reads."""
    slab = 0x1_0000
    places = np.random.default_rng(1).permutation(SLAB // 16)[:200] * 16 + slab
    nodes = [LINEAR_START + int(place) for place in places]
    entries = [make_entry(1, at << 16) for at in range(len(nodes))]
    ram = bytearray(RAM)
    for at, (node, entry) in enumerate(zip(nodes, entries, strict=True)):
        last = make_entry(2, 0x1000, single=True)
        following = nodes[at + 1] if at + 1 < len(nodes) else last
        start = node - LINEAR_START
        ram[start : start + 16] = struct.pack("<QQ", following, entry)
    gdb = StandIn(ram=bytes(ram))
    live = memory_of(gdb)
    reading = read_chain(NodeMemory(KernelMemory(live, 0, "little"), live), nodes[0])
    assert [entry.n_gpa for entry in reading.entries] == [
        *(at << 16 for at in range(len(nodes))),
        0x1000,
    ]
    assert gdb.asked == ["info", "pmemsave", "pmemsave"]


@pytest.mark.parametrize("address", [SIZE - 4, SIZE, 1 << 63])
def test_nothing_outside_of_ram_is_asked_for(address: int) -> None:
    gdb = StandIn()
    with pytest.raises(UnreadableMemoryError, match="no RAM there"):
        memory_of(gdb).read(address, 8)
    assert gdb.asked == ["info"]


def test_a_monitor_that_prints_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    gdb = StandIn()
    memory = memory_of(gdb, unix=False)
    memory.read(0, 8)
    monkeypatch.setattr(gdb, "monitor", lambda _: "Cannot access memory")
    with pytest.raises(NestscopeError, match="printed 0 of 4096 bytes at 0x100000"):
        memory.read(1 << 20, 8)
