import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestscope.plugin.mi.errors import (
    GdbCommandError,
    GdbGoneError,
    GdbMissingError,
    GdbTimeoutError,
)
from nestscope.plugin.mi.records import MiRecord
from nestscope.plugin.mi.transport import MiTransport

SLEEP = '-interpreter-exec console "python import time; time.sleep({})"'


@pytest.fixture
def transport(gdb: str) -> Iterator[MiTransport]:
    with MiTransport(gdb) as transport:
        yield transport


def evaluate(transport: MiTransport, expression: str) -> str:
    result = transport.execute(f'-data-evaluate-expression "{expression}"')
    return str(result.record.payload["value"])


def _from_the_start(file: int) -> int:
    os.lseek(file, 0, os.SEEK_SET)
    return file


class TestCommands:
    def test_a_result_is_matched_by_its_token(self, transport: MiTransport) -> None:
        first = transport.submit('-data-evaluate-expression "1+1"')
        second = transport.submit('-data-evaluate-expression "2+3"')
        # Collected in the other order, each gets its own.
        assert transport.collect(second, 5).record.payload == {"value": "5"}
        assert transport.collect(first, 5).record.payload == {"value": "2"}

    def test_pipelined_answers_keep_their_order(self, transport: MiTransport) -> None:
        commands = [f'-data-evaluate-expression "{n}*2"' for n in range(500)]
        results = transport.execute_many(commands, 20)
        assert [int(r.record.payload["value"]) for r in results] == list(range(0, 1000, 2))

    def test_more_commands_and_answers_than_the_pipes_hold(self, transport: MiTransport) -> None:
        # Each direction exceeds the 64 KiB of a pipe: neither side may block the other for good.
        text = "x" * 4000
        say = f"-interpreter-exec console \"python print('{text}')\""
        results = transport.execute_many([say] * 100, 20)
        assert {r.console for r in results} == {text + "\n"}

    def test_stream_records_belong_to_their_command(self, transport: MiTransport) -> None:
        say = '-interpreter-exec console "echo {}"'
        one, two = transport.execute_many([say.format("one"), say.format("two")], 5)
        assert (one.console, two.console) == ("one", "two")

    def test_an_error_record_carries_gdbs_message(self, transport: MiTransport) -> None:
        with pytest.raises(GdbCommandError, match="No symbol table is loaded") as caught:
            evaluate(transport, "nonsense")
        assert "No symbol table is loaded" in caught.value.reason
        assert evaluate(transport, "40+2") == "42"

    def test_a_failure_in_a_batch_leaves_nothing_behind(self, transport: MiTransport) -> None:
        good = '-data-evaluate-expression "1"'
        with pytest.raises(GdbCommandError):
            transport.execute_many([good, "-no-such-command", good], 5)
        assert evaluate(transport, "3") == "3"

    def test_notifications_are_dispatched_and_kept(self, gdb: str) -> None:
        seen: list[MiRecord] = []
        with MiTransport(gdb, on_async=seen.append) as transport:
            transport.execute("-add-inferior")
            assert "thread-group-added" in [record.message for record in seen]
            assert list(transport.async_records)[-len(seen) :] == seen

    def test_a_command_cannot_smuggle_a_second_line(self, transport: MiTransport) -> None:
        with pytest.raises(ValueError, match="one line"):
            transport.submit("-gdb-version\n-gdb-exit")

    def test_the_users_gdbinit_is_not_read(
        self, gdb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / ".gdbinit").write_text("set $mark = 7\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        with MiTransport(gdb) as transport:
            assert evaluate(transport, "$mark") == "void"


class TestDeadlines:
    def test_a_silent_gdb_is_not_waited_for(self, transport: MiTransport) -> None:
        with pytest.raises(GdbTimeoutError, match=r"time\.sleep.*within 0\.2 s"):
            transport.execute(SLEEP.format(1), 0.2)

    def test_the_late_answer_is_not_taken_for_another(self, transport: MiTransport) -> None:
        with pytest.raises(GdbTimeoutError):
            transport.execute(SLEEP.format(0.5), 0.1)
        assert evaluate(transport, "6*7") == "42"


class TestEndings:
    def test_gdb_killed_in_mid_command(self, transport: MiTransport) -> None:
        token = transport.submit(SLEEP.format(20))
        with pytest.raises(GdbTimeoutError):
            transport.collect(token, 0.2)
        again = transport.submit("-gdb-version")
        os.kill(transport.pid, signal.SIGKILL)
        with pytest.raises(GdbGoneError, match="SIGKILL"):
            transport.collect(again, 5)
        with pytest.raises(GdbGoneError):
            transport.submit("-gdb-version")
        assert not transport.alive

    def test_its_death_shows_though_a_child_of_it_holds_the_pipe(
        self, transport: MiTransport
    ) -> None:
        token = transport.submit('-interpreter-exec console "shell sleep 3"')
        with pytest.raises(GdbTimeoutError):
            transport.collect(token, 0.2)
        again = transport.submit("-gdb-version")
        os.kill(transport.pid, signal.SIGKILL)
        with pytest.raises(GdbGoneError, match="SIGKILL"):
            transport.collect(again, 2)

    def test_gdb_that_exits_by_itself(self, transport: MiTransport) -> None:
        with pytest.raises(GdbGoneError, match="status 3"):
            transport.execute('-interpreter-exec console "quit 3"', 5)

    def test_the_last_words_on_stderr_are_told(self, transport: MiTransport) -> None:
        script = "python import os; os.write(2, b'out of luck'); os._exit(9)"
        with pytest.raises(GdbGoneError, match=r"status 9.*out of luck"):
            transport.execute(f'-interpreter-exec console "{script}"', 5)

    def test_close_ends_gdb_even_when_it_is_stopped(self, gdb: str) -> None:
        transport = MiTransport(gdb)
        os.kill(transport.pid, signal.SIGSTOP)
        transport.close(timeout=0.2)
        assert not Path(f"/proc/{transport.pid}").exists()

    def test_closing_twice_spares_who_has_the_descriptor_by_now(
        self, gdb: str, tmp_path: Path
    ) -> None:
        transport = MiTransport(gdb)
        transport.close()
        # The lowest free numbers are given out again: one of these had been GDB's input.
        files = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT) for n in range(8)]
        transport.close()
        written = [os.read(file, 100) for file in map(_from_the_start, files)]
        for file in files:
            os.close(file)
        assert written == [b""] * 8

    def test_a_file_that_is_no_program_says_what_to_install(self, tmp_path: Path) -> None:
        text = tmp_path / "gdb"
        text.write_bytes(b"\0not a program")
        text.chmod(0o755)
        with pytest.raises(GdbMissingError, match="apt install gdb-multiarch"):
            MiTransport(str(text))

    def test_a_missing_gdb_says_what_to_install(self) -> None:
        with pytest.raises(GdbMissingError, match="apt install gdb-multiarch"):
            MiTransport("no-such-gdb")

    def test_a_program_that_is_no_gdb(self) -> None:
        with pytest.raises(GdbGoneError, match="status 1"):
            MiTransport("false")

    def test_gdb_dies_with_us_however_we_die(self, gdb: str) -> None:
        program = (
            "import sys, time\n"
            "from nestscope.plugin.mi.transport import MiTransport\n"
            "transport = MiTransport(sys.argv[1])\n"
            "transport.submit('-interpreter-exec console \"python while True: pass\"')\n"
            "transport._move(1)\n"
            "print(transport.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", program, gdb], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + 5
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
