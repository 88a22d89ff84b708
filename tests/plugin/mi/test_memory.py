import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.sources.protocol import BulkMemory
from nestscope.plugin.mi.errors import TargetError, TargetGoneError
from nestscope.plugin.mi.memory import MAX_RUN, GdbMemory
from nestscope.plugin.mi.pages import PAGE, PageStore, runs_of
from nestscope.plugin.mi.session import GdbSession

from .machine import COUNTER, RAM_SIZE, PausedMachine

FILLED = 8 << 20
SEED = 1


@pytest.fixture(params=["packets", "spool"])
def memory(
    request: pytest.FixtureRequest, machine: PausedMachine, session: GdbSession
) -> GdbMemory:
    # From 2 MiB on: the counting program lies below.
    machine.ram[2 << 20 : FILLED] = random.Random(SEED).randbytes(FILLED - (2 << 20))
    return GdbMemory(session, spool=machine.directory if request.param == "spool" else None)


class TestReading:
    def test_it_is_a_bulk_memory(self, memory: GdbMemory) -> None:
        assert isinstance(memory, BulkMemory)

    def test_random_places_equal_the_ram_file(
        self, machine: PausedMachine, memory: GdbMemory
    ) -> None:
        rng = random.Random(2)
        for _ in range(60):
            length = rng.choice([0, 1, 8, PAGE - 1, PAGE, PAGE + 1, 65536, 200_000])
            address = rng.randrange(FILLED - length)
            assert memory.read(address, length) == machine.ram[address : address + length]

    def test_many_at_once_equal_the_ram_file(
        self, machine: PausedMachine, memory: GdbMemory
    ) -> None:
        rng = random.Random(3)
        addresses = [rng.randrange(FILLED) for _ in range(200)]
        rows, good = memory.read_many(np.array(addresses, np.uint64), 4100)
        assert good.all()
        assert [row.tobytes() for row in rows] == [machine.ram[a : a + 4100] for a in addresses]
        assert memory.statistics.round_trips == 1

    def test_a_run_longer_than_one_command(self, machine: PausedMachine, memory: GdbMemory) -> None:
        length = 2 * MAX_RUN + 5000
        start = (2 << 20) + 77
        assert memory.read(start, length) == machine.ram[start : start + length]

    def test_the_end_of_ram(self, machine: PausedMachine, memory: GdbMemory) -> None:
        machine.ram[RAM_SIZE - 4 : RAM_SIZE] = b"last"
        assert memory.read(RAM_SIZE - 4, 4) == b"last"


class TestUnreadable:
    @pytest.mark.parametrize("address", [RAM_SIZE - 4, RAM_SIZE, 1 << 63, (1 << 64) - 8])
    def test_outside_ram(self, memory: GdbMemory, address: int) -> None:
        # QEMU itself would answer with zeros.
        with pytest.raises(UnreadableMemoryError, match=f"{address:#x}.*no RAM") as caught:
            memory.read(address, 8)
        assert (caught.value.address, caught.value.length) == (address, 8)

    @pytest.mark.parametrize("length", [-1, 1 << 40])
    def test_a_wild_length(self, memory: GdbMemory, length: int) -> None:
        with pytest.raises(UnreadableMemoryError):
            memory.read(0, length)

    def test_bad_rows_among_good_ones(self, machine: PausedMachine, memory: GdbMemory) -> None:
        addresses = np.array([1 << 60, 4 << 20, RAM_SIZE - 8], np.uint64)
        rows, good = memory.read_many(addresses, 16)
        assert good.tolist() == [False, True, False]
        assert rows[1].tobytes() == machine.ram[4 << 20 : (4 << 20) + 16]
        assert not rows[[0, 2]].any()


class TestCaching:
    def test_the_same_page_is_fetched_once(self, memory: GdbMemory) -> None:
        memory.read(PAGE * 600, 8)
        memory.read(PAGE * 600 + 100, 8)
        assert (memory.statistics.commands, memory.statistics.bytes_read) == (1, PAGE)

    def test_neighbouring_pages_are_one_command(self, memory: GdbMemory) -> None:
        memory.read(PAGE * 600 + 5, 10 * PAGE)
        assert (memory.statistics.commands, memory.statistics.bytes_read) == (1, 11 * PAGE)

    def test_it_ends_when_the_target_has_run(
        self, machine: PausedMachine, session: GdbSession, memory: GdbMemory
    ) -> None:
        assert memory.read(COUNTER, 8) == bytes(8)
        session.cont()
        assert machine.counts_up()
        session.interrupt()
        assert memory.read(COUNTER, 8) == machine.counter().to_bytes(8, "big") != bytes(8)

    def test_it_ends_with_a_write(self, session: GdbSession, memory: GdbMemory) -> None:
        memory.read(0x6000, 8)
        session.write(0x6000, b"inserted")
        assert memory.read(0x6000, 8) == b"inserted"

    def test_pages_used_before_come_along_afresh(
        self, machine: PausedMachine, session: GdbSession, memory: GdbMemory
    ) -> None:
        far = 100 << 20
        memory.read(COUNTER, 8)
        memory.read(far, 8)
        session.cont()
        assert machine.counts_up()
        session.interrupt()
        before = memory.statistics.round_trips
        machine.ram[far : far + 8] = b"replaced"
        assert int.from_bytes(memory.read(COUNTER, 8), "big") == machine.counter()
        assert memory.read(far, 8) == b"replaced"
        assert memory.statistics.round_trips == before + 1


class TestLosingTheTarget:
    def test_qemu_killed_in_mid_read(self, machine: PausedMachine, session: GdbSession) -> None:
        memory = GdbMemory(session)
        memory.read(0, 8)
        killer = threading.Timer(0.2, machine.kill)
        killer.start()
        started = time.monotonic()
        with pytest.raises(TargetGoneError, match=r"went away|connect again"):
            memory.read(0, 64 << 20)
        killer.join()
        assert time.monotonic() - started < 15
        with pytest.raises(TargetGoneError):
            memory.read(0, 8)


class TestSpool:
    def test_its_files_go_with_it(self, machine: PausedMachine, session: GdbSession) -> None:
        before = set(machine.directory.iterdir())
        memory = GdbMemory(session, spool=machine.directory)
        memory.read(0, 1 << 20)
        assert set(machine.directory.iterdir()) > before
        memory.close()
        assert set(machine.directory.iterdir()) == before

    def test_a_directory_that_is_not_there(self, session: GdbSession, tmp_path: Path) -> None:
        memory = GdbMemory(session, spool=tmp_path / "none")
        with pytest.raises(TargetError, match="cannot be created"):
            memory.read(0, 8)

    def test_a_file_that_qemu_does_not_see_is_no_answer(
        self, session: GdbSession, tmp_path: Path
    ) -> None:
        memory = GdbMemory(session, spool=tmp_path)
        memory.read(0, 8)
        for file in tmp_path.iterdir():
            file.unlink()  # QEMU makes its own now, as if it lived elsewhere
        with pytest.raises(TargetError, match="the same directory"):
            memory.read(32 << 20, 8)

    @pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline"])
    def test_a_name_that_the_monitor_would_misread(
        self, session: GdbSession, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(TargetError, match="cannot be named"):
            GdbMemory(session, spool=tmp_path / name)


class TestRuns:
    @given(st.sets(st.integers(0, 2000), max_size=200), st.integers(0, 20))
    def test_they_cover_every_page_once_and_stay_in_ram(self, pages: set[int], gap: int) -> None:
        hole = range(900 * PAGE, 1000 * PAGE)
        ram = (range(hole.start), range(hole.stop, 2001 * PAGE))
        wanted = sorted(page for page in pages if page * PAGE not in hole)
        runs = runs_of(wanted, MAX_RUN, gap * PAGE, ram)
        covered = [n for start, size in runs for n in range(start // PAGE, (start + size) // PAGE)]
        assert set(wanted) <= set(covered)
        assert len(covered) == len(set(covered))
        assert not {n * PAGE for n in covered} & set(hole[::PAGE])
        assert all(0 < size <= MAX_RUN for _, size in runs)
        if not gap:
            assert covered == wanted


class TestStore:
    @given(st.sets(st.integers(0, 8)), st.integers(0, 9 * PAGE - 1), st.integers(0, 3 * PAGE))
    def test_it_reads_what_is_kept_and_nothing_else(
        self, kept: set[int], address: int, length: int
    ) -> None:
        memory = random.Random(7).randbytes(12 * PAGE)
        store = PageStore(1 << 20)
        for page in kept:
            store.keep(page * PAGE, memory[page * PAGE : (page + 1) * PAGE])
        touched = {at // PAGE for at in range(address, address + length)}
        expected = memory[address : address + length] if touched <= kept else None
        assert store.read(address, length) == expected
        assert store.missing(range(9)) == set(range(9)) - kept

    def test_a_run_is_kept_page_by_page(self) -> None:
        store = PageStore(1 << 20)
        store.keep(3 * PAGE, b"a" * PAGE + b"b" * PAGE)
        assert [store.has(page) for page in range(2, 6)] == [False, True, True, False]
        assert store.read(4 * PAGE - 1, 2) == b"ab"

    def test_more_than_its_limit_is_forgotten_before_the_next_fetch(self) -> None:
        store = PageStore(2 * PAGE)
        store.keep(0, bytes(3 * PAGE))
        assert store.has(0)
        assert store.missing([0, 1]) == {0, 1}
