import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from nestscope.plugin.mi import stub
from nestscope.plugin.mi.endpoint import Endian
from nestscope.plugin.mi.errors import (
    GdbMissingError,
    GdbTimeoutError,
    MiError,
    TargetError,
    TargetGoneError,
    TargetRunningError,
)
from nestscope.plugin.mi.memory import GdbMemory
from nestscope.plugin.mi.session import GdbSession

from .machine import ADDI, COUNTER, RAM_SIZE, PausedMachine


class TestConnecting:
    def test_ram_is_learnt_from_the_machine(self, session: GdbSession) -> None:
        assert session.ram == (range(RAM_SIZE),)

    def test_nothing_listens(self, gdb: str, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"no gdbstub at .*No such file"):
            GdbSession.connect(tmp_path / "none", gdb=gdb)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(TargetError, match="no gdbstub answers"):
                GdbSession.connect(f"127.0.0.1:{port}", gdb=gdb)

    def test_what_listens_is_silent(self, gdb: str, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "s"))
            silent.listen()
            started = time.monotonic()
            with pytest.raises(TargetError, match="does not answer"):
                GdbSession.connect(tmp_path / "s", gdb=gdb, timeout=0.5)
            assert time.monotonic() - started < 10  # a bound, not a measurement

    def test_a_vmlinux_that_is_no_elf_file(self, gdb: str, tmp_path: Path) -> None:
        (tmp_path / "vmlinux").write_bytes(b"MZ")
        with pytest.raises(MiError, match="not an ELF file"):
            GdbSession.connect("localhost:1", tmp_path / "vmlinux", gdb=gdb)

    def test_gdb_is_not_installed(self) -> None:
        with pytest.raises(GdbMissingError, match="install"):
            GdbSession.connect("localhost:1", gdb="no-such-gdb")


class TestRunning:
    def test_the_target_runs_between_continue_and_interrupt(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        session.cont()
        assert session.running
        assert machine.counts_up()
        session.interrupt()
        assert not session.running
        assert not machine.counts_up(0.2)

    def test_reading_a_running_target_is_refused(self, session: GdbSession) -> None:
        memory = GdbMemory(session)
        session.cont()
        with pytest.raises(TargetRunningError, match="stop it first"):
            memory.read(0, 8)
        with pytest.raises(TargetRunningError):
            session.read_registers("r3")
        with pytest.raises(TargetRunningError):
            session.write(0, b"x")

    def test_stopped_holds_it_and_lets_it_go_again(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        session.cont()
        with session.stopped():
            assert not machine.counts_up(0.2)
        assert session.running
        assert machine.counts_up()

    def test_stopped_lets_it_go_after_an_error_too(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        session.cont()
        with pytest.raises(TargetError), session.stopped():
            session.read_registers("no_such_register")
        assert machine.counts_up()

    def test_stopped_does_not_start_what_was_stopped(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        with session.stopped():
            pass
        assert not session.running
        assert not machine.counts_up(0.2)

    def test_waiting_for_a_stop_is_bounded(self, session: GdbSession) -> None:
        session.cont()
        with pytest.raises(GdbTimeoutError, match="target's stop"):
            session.wait_stop(0.2)
        session.interrupt()


class TestBreakpoints:
    def test_one_fires_and_the_target_proceeds_afterwards(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        number = session.break_at(ADDI)
        before = bytes(machine.ram[ADDI : ADDI + 4])
        for round_ in range(3):
            session.cont()
            assert bytes(machine.ram[ADDI : ADDI + 4]) == before, "GDB patched the code"
            stop = session.wait_stop(10)
            assert (stop.reason, stop.address, stop.breakpoint) == ("breakpoint-hit", ADDI, number)
            # One turn of the loop lies between two hits; r3 was loaded, not yet incremented.
            assert machine.counter() == round_
            assert session.read_registers("nip", "r3") == {"nip": ADDI, "r3": round_}
        session.delete_breakpoint(number)
        session.cont()
        assert machine.counts_up()

    def test_going_on_elsewhere_takes_no_step_and_leaves_the_instruction_out(
        self, session: GdbSession
    ) -> None:
        session.break_at(ADDI)
        session.cont()
        session.wait_stop(10)
        before = session.read_registers("r3")["r3"]
        # Behind the addi: the next turn loads what this one stored, unchanged.
        session.cont(at=ADDI + 4)
        assert session.wait_stop(10).address == ADDI
        assert session.read_registers("r3")["r3"] == before

    def test_detach_removes_them(self, machine: PausedMachine, session: GdbSession) -> None:
        session.break_at(ADDI)
        session.detach()
        assert machine.counts_up()


class TestRegisters:
    @pytest.mark.parametrize("endian", ["little", "big"])
    def test_they_equal_qemus_own_whatever_gdbs_byte_order(
        self, machine: PausedMachine, endian: Endian
    ) -> None:
        with GdbSession.connect(machine.socket, endian=endian) as session:
            session.cont()
            assert machine.counts_up()
            session.interrupt()
            names = ["nip", "msr", "r3", "r4", "lr", "ctr", "lpidr"]
            values = session.read_registers(*names)
            shown = stub.monitor(session.transport, "info registers", 5)

            def qemus(pattern: str) -> int:
                found = re.search(pattern, shown)
                assert found is not None, shown
                return int(found[1], 16)

            assert values["nip"] == qemus(r"NIP ([0-9a-f]{16})")
            assert values["msr"] == qemus(r"MSR ([0-9a-f]{16})")
            assert values["lr"] == qemus(r"LR ([0-9a-f]{16})")
            assert values["r3"] == qemus(r"GPR00 \w+ \w+ \w+ (\w+)")
            assert values["r4"] == COUNTER
            assert values["lpidr"] == 0

    def test_memory_as_the_vcpu_sees_it_leaves_physical_mode_on(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        assert session.read_context(ADDI, 4) == bytes(machine.ram[ADDI : ADDI + 4])
        assert session.read_context(RAM_SIZE << 8, 4) == b""
        assert stub.packet(session.transport, "qqemu.PhyMemMode", 5) == "1"

    def test_an_unknown_name(self, session: GdbSession) -> None:
        with pytest.raises(TargetError, match="no register rax"):
            session.read_registers("rax")


class TestWriting:
    def test_the_bytes_arrive_at_the_physical_address(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        session.write(0x5000, b"\x01\x80\xff\x00nest")
        assert machine.ram[0x4FFF:0x5009] == b"\x00\x01\x80\xff\x00nest\x00"

    def test_outside_ram_nothing_is_written(self, session: GdbSession) -> None:
        with pytest.raises(TargetError, match="not all in RAM"):
            session.write(RAM_SIZE - 4, bytes(8))

    def test_a_whole_session_without_write_changes_nothing(self, machine: PausedMachine) -> None:
        before = machine.ram[:]
        with GdbSession.connect(machine.socket, endian="big") as session:
            GdbMemory(session).read(0, 1 << 20)
            session.break_at(ADDI)
            session.read_registers("r3", "nip")
            assert machine.ram[:] == before


class TestLeaving:
    def test_detach_leaves_it_running_and_out_of_physical_mode(
        self, machine: PausedMachine
    ) -> None:
        with GdbSession.connect(machine.socket, endian="big") as session:
            assert stub.packet(session.transport, "qqemu.PhyMemMode", 5) == "1"
            session.detach()
            with pytest.raises(TargetGoneError, match="detached"):
                session.read_registers("r3")
        assert machine.counts_up()
        with GdbSession.connect(machine.socket, endian="big", physical=False) as session:
            assert stub.packet(session.transport, "qqemu.PhyMemMode", 5) == "0"

    def test_close_detaches_a_running_target(self, machine: PausedMachine) -> None:
        with GdbSession.connect(machine.socket, endian="big") as session:
            session.break_at(ADDI + 0x1000)
            session.cont()
        assert machine.counts_up()

    def test_a_target_that_goes_away_while_it_runs(
        self, machine: PausedMachine, session: GdbSession
    ) -> None:
        session.cont()
        machine.kill()
        with pytest.raises(TargetGoneError, match="start QEMU and connect again"):
            session.wait_stop(10)
        with pytest.raises(TargetGoneError):
            session.cont()

    def test_a_target_that_hangs(self, machine: PausedMachine) -> None:
        with GdbSession.connect(machine.socket, endian="big", timeout=0.5) as session:
            os.kill(machine.pid, signal.SIGSTOP)
            with pytest.raises(GdbTimeoutError, match="hangs"):
                GdbMemory(session).read(0, 8)
        assert not Path(f"/proc/{session.transport.pid}").exists()
