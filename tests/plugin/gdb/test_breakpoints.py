"""`nested break` and conditions with our functions, while the kernel really inserts and removes."""

import json
from collections.abc import Iterator

import pytest

from nestscope.plugin.gdb.terminal import GdbTerminal
from nestscope.sim.layout import LAYOUT
from tests.schemas import hold

from .conftest import World

pytestmark = pytest.mark.kernel

PAGE = 0x92_0000
N_GPA = 0x700_0000
DONE = 0xC00


@pytest.fixture
def gdb(world: World) -> Iterator[GdbTerminal]:
    """Attached, so that the world stands still until GDB continues it."""
    with GdbTerminal([world.lab.kernel.vmlinux]) as terminal:
        terminal.run(f"target remote {world.lab.gdb_socket}")
        yield terminal
        terminal.run("delete")
        terminal.run("detach")


def load(lpid: int, address: int) -> str:
    """The agent's command for a load by a nested guest."""
    return f"enter {lpid} 0x0 {address:#x} 0 0 {LAYOUT.state:#x}"


def prepared(world: World, gdb: GdbTerminal, *lines: str) -> None:
    """Execute operations while GDB is away."""
    gdb.run("detach")
    world.execute(*lines)
    gdb.run(f"target remote {world.lab.gdb_socket}")


def gfn_of(world: World, gpa: int) -> int:
    shift = world.state().kernel.page_shift
    assert shift is not None
    return gpa >> shift


def test_it_stops_when_an_entry_is_inserted_and_when_it_is_removed(
    world: World, gdb: GdbTerminal
) -> None:
    prepared(
        world,
        gdb,
        f"map 1 {N_GPA:#x} {PAGE:#x} 64K rwxRC",
        f"load 1 {N_GPA:#x}",
        f"map 2 {N_GPA:#x} {PAGE:#x} 64K rwxRC",
    )
    gfn = gfn_of(world, PAGE)
    shown = gdb.run(f"nested break both 2 {N_GPA:#x}")
    assert shown.count("Hardware assisted breakpoint") == 3
    agent = world.lab.agent

    agent.submit([load(2, N_GPA)])
    stopped = gdb.run("continue")
    assert f"(l1_lpid 2, n_gpa {N_GPA:#x}) was inserted at gfn {gfn:#x}" in stopped
    assert f"before: single (1, {N_GPA:#x})\n" in stopped
    assert f"after:  list (2, {N_GPA:#x}) (1, {N_GPA:#x})\n" in stopped
    # It stands in the kernel's function, and the chain can be asked for there.
    assert f"(2, {N_GPA:#x})" in gdb.run(f"output $_nested_chain({gfn:#x})")

    gdb.send("continue")
    (reply,) = agent.collect(1)
    assert reply["ret"] == DONE
    agent.submit([f"discard {PAGE:#x} 0x10000"])
    removed = gdb.wait()
    assert f"(l1_lpid 2, n_gpa {N_GPA:#x}) was removed from gfn {gfn:#x}" in removed
    assert f"before: list (2, {N_GPA:#x}) (1, {N_GPA:#x})\n  after:  empty" in removed
    gdb.send("continue")
    assert agent.collect(1)[0].ok
    gdb.interrupt()
    gdb.wait()


def test_a_duplicate_and_another_entry_do_not_stop_it(world: World, gdb: GdbTerminal) -> None:
    other, page = N_GPA + 0x10_0000, PAGE + 0x1_0000
    prepared(
        world,
        gdb,
        f"map 1 {other:#x} {page:#x} 64K rwxRC",
        f"load 1 {other:#x}",
        # The shadow leaf goes, the entry stays: the next fault inserts a duplicate.
        f"tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn={other >> 12:#x}",
        f"map 2 {other:#x} {page:#x} 64K rwxRC",
    )
    (guest, _) = world.vm.nested
    assert guest.leaves.covering(other) is None
    for lpid in (1, 2):
        gdb.run(f"nested break insert {lpid} {other:#x}")
    agent = world.lab.agent
    agent.submit([load(1, other), load(2, other)])
    stopped = gdb.run("continue")
    # The first load has faulted and is done: its duplicate was none to stop for.
    (guest, _) = world.vm.nested
    assert guest.leaves.covering(other) is not None
    assert stopped.count("was inserted") == 1
    assert "(l1_lpid 2, " in stopped
    gdb.send("continue")
    assert [reply["ret"] for reply in agent.collect(2)] == [DONE, DONE]
    gdb.interrupt()
    gdb.wait()


def test_a_condition_with_our_functions(world: World, gdb: GdbTerminal) -> None:
    """Stop at an insertion only when the chain of a certain page has two entries already."""
    page, gfn = PAGE + 0x2_0000, gfn_of(world, PAGE + 0x2_0000)
    places = [N_GPA + 0x20_0000 + at * 0x1_0000 for at in range(4)]
    prepared(world, gdb, *(f"map 1 {place:#x} {page:#x} 64K rwxRC" for place in places))
    told = gdb.run(f"nested break insert 99 {places[0]:#x}")
    entry = told.split(" at ")[1].split()[0]
    gdb.run("delete")
    gdb.run(f"hbreak *{entry} if $_nested_chain_length({gfn:#x}) == 2")
    agent = world.lab.agent
    agent.submit([load(1, place) for place in places])
    assert "Breakpoint" in gdb.run("continue")
    pairs = f"(1, {places[1]:#x}) (1, {places[0]:#x})"
    assert gdb.run(f"output $_nested_chain({gfn:#x})") == f'"list {pairs}"'
    gdb.run("delete")
    gdb.send("continue")
    assert [reply["ret"] for reply in agent.collect(4)] == [DONE] * 4
    gdb.interrupt()
    gdb.wait()


def test_a_chain_while_the_vcpu_is_in_a_nested_guest(world: World, gdb: GdbTerminal) -> None:
    """The same kernel addresses mean something else there; physical reads do not care."""
    gfn = gfn_of(world, 0x90_0000)
    outside = gdb.run(f"output $_nested_chain({gfn:#x})")
    gdb.run("hbreak *0x0")
    agent = world.lab.agent
    agent.submit([load(2, 0x200_0000)])
    assert "Breakpoint" in gdb.run("continue")
    assert gdb.run("output $lpidr") != "0"
    assert gdb.run(f"output $_nested_chain({gfn:#x})") == outside != '""'
    assert "radix" in gdb.run("nested vms")
    gdb.run("delete")
    gdb.send("continue")
    assert agent.collect(1)[0]["ret"] == DONE
    gdb.interrupt()
    gdb.wait()


def test_deleting_the_breakpoint_deletes_its_companions(world: World, gdb: GdbTerminal) -> None:
    before = gdb.run("maint info breakpoints").count("hw breakpoint")
    told = gdb.run("nested break both 1 0x5000000")
    numbers = told.rsplit("delete ", 1)[1].split()
    assert gdb.run("maint info breakpoints").count("hw breakpoint") > before + len(numbers)
    gdb.run(f"delete {' '.join(numbers)}")
    gdb.run("echo")  # events run between commands
    assert gdb.run("maint info breakpoints").count("hw breakpoint") == before


def test_json(gdb: GdbTerminal) -> None:
    shown = gdb.run("nested break insert 1 0x5000000 --json")
    line = next(line for line in shown.splitlines() if line.startswith("{"))
    document = json.loads(line)
    hold(document)
    assert list(document["breakpoints"]) == ["kvmhv_insert_nest_rmap"]
