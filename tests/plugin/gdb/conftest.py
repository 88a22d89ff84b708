"""A real GDB on a real kernel in which the built-in scenario has run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nestscope.decoders.state import State, Vm
from nestscope.plugin.differential.scenario import SCENARIO
from nestscope.plugin.differential.session import LiveMachine, open_machine
from nestscope.plugin.gdb.terminal import GdbTerminal
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.trace import parse
from tests.schemas import hold

from .proxy import CountingProxy


@dataclass
class World:
    """The lab with a VM, and the way to make it do things."""

    lab: Lab
    live: LiveMachine
    guest: Guest

    def state(self) -> State:
        """What the RAM file says: another way to the same memory."""
        return self.live.machine.state()

    @property
    def vm(self) -> Vm:
        return self.state().vms[0]

    def execute(self, *lines: str) -> None:
        """Execute operations, written as in a trace."""
        for operation in parse("\n".join(["nestscope-trace 1", *lines])):
            self.live.machine.execute(self.guest.lower(operation))


@dataclass
class Attached:
    """GDB, attached through a proxy to the world, which is stopped."""

    gdb: GdbTerminal
    proxy: CountingProxy
    world: World

    def json(self, command: str) -> Any:
        text = self.gdb.run(f"{command} --json")
        lines = [line for line in text.splitlines() if line.startswith("{")]
        assert len(lines) == 1, text
        document = json.loads(lines[0])
        hold(document)
        return document


@pytest.fixture(scope="module")
def world(lab: Lab) -> Iterator[World]:
    lab.agent.must(["destroy"])
    with open_machine(lab) as live:
        guest = Guest()
        live.machine.execute(guest.setup())
        for operation in SCENARIO:
            live.machine.execute(guest.lower(operation))
        yield World(lab, live, guest)
    lab.agent.must(["destroy"])


@pytest.fixture(scope="module")
def attached(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    folder = tmp_path_factory.mktemp("gdb")
    with (
        CountingProxy(folder / "stub", world.lab.gdb_socket) as proxy,
        GdbTerminal([world.lab.kernel.vmlinux]) as gdb,
    ):
        gdb.run(f"target remote {proxy.path}")
        yield Attached(gdb, proxy, world)
        gdb.run("detach")


@pytest.fixture
def socket_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")
