import os
import shutil
from collections.abc import Iterator

import pytest

from nestscope.plugin.mi.session import GdbSession

from .machine import COUNT_UP, RESET, PausedMachine, gdb_children


@pytest.fixture(autouse=True)
def no_gdb_is_left() -> Iterator[None]:
    yield
    assert gdb_children(os.getpid()) == []


@pytest.fixture
def gdb() -> str:
    if shutil.which("gdb-multiarch") is None:
        pytest.skip("gdb-multiarch is not installed (package gdb-multiarch)")
    return "gdb-multiarch"


@pytest.fixture
def machine(gdb: str) -> Iterator[PausedMachine]:
    if shutil.which("qemu-system-ppc64") is None:
        pytest.skip("qemu-system-ppc64 is not installed (package qemu-system-ppc)")
    with PausedMachine() as machine:
        machine.ram[RESET : RESET + len(COUNT_UP)] = COUNT_UP
        yield machine


@pytest.fixture
def session(machine: PausedMachine) -> Iterator[GdbSession]:
    """Big-endian, as the machine is before a kernel runs."""
    with GdbSession.connect(machine.socket, endian="big", timeout=10) as session:
        yield session
