"""The agent's line protocol, spoken with a peer that this test plays."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.qemu.channel import Agent, parse_reply
from nestscope.plugin.qemu.errors import LabError, LabFailure, RefusedError


class QuietError(Exception):
    pass


@contextmanager
def agent_with(peer: Callable[[socket.socket], None]) -> Iterator[Agent]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=peer, args=(theirs,))
    thread.start()
    agent = Agent(ours, lambda: None, QuietError)
    try:
        yield agent
    finally:
        agent.close()
        thread.join(10)
        theirs.close()


def answers(*pieces: bytes) -> Callable[[socket.socket], None]:
    def peer(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)  # so that each piece is received alone

    return peer


def test_ok_reply_has_numbers() -> None:
    reply = parse_reply("enter 1", "ok ret=0xc00 r5=7 release=6.12+x")
    assert reply.ok
    assert (reply["ret"], reply["r5"]) == (0xC00, 7)
    assert reply.values["release"] == "6.12+x"


def test_error_reply_names_what_failed() -> None:
    reply = parse_reply("slot 0", "error set-region errno=17")
    assert reply.error == "set-region"
    assert reply["errno"] == 17


@pytest.mark.parametrize("line", ["", "OK", "hello", "error", "ok novalue"])
def test_what_is_no_reply_is_an_error(line: str) -> None:
    with pytest.raises(LabError):
        parse_reply("hello", line)


def test_a_missing_number_says_which() -> None:
    with pytest.raises(LabError, match="'vm' has no number hva"):
        parse_reply("vm", "ok fd=5")["hva"]


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_any_line_is_a_reply_or_a_lab_error(line: str) -> None:
    try:
        parse_reply("hello", line)
    except LabError:
        return
    assert line.split(maxsplit=1)[0] in {"ok", "error"}


def test_replies_come_in_order_however_they_are_cut() -> None:
    with agent_with(answers(b"ok a", b"=1\nok a=2\nerror x er", b"rno=3\n")) as agent:
        replies = agent.run(["one", "two", "three"])
    assert [reply.command for reply in replies] == ["one", "two", "three"]
    assert [reply.values for reply in replies] == [{"a": "1"}, {"a": "2"}, {"errno": "3"}]


def test_raw_bytes_follow_their_line() -> None:
    with agent_with(answers(b"ok bytes=6\nok", b" x\n\nok b=1\n")) as agent:
        listing, after = agent.run(["listing", "hello"])
    assert listing.data == b"ok x\n\n"
    assert after["b"] == 1


def test_must_names_the_refused_command() -> None:
    with (
        agent_with(answers(b"ok\nerror no-slot errno=14\nok\n")) as agent,
        pytest.raises(LabError, match="could not do 'read 0 1': no-slot errno=14"),
    ):
        agent.must(["vm", "read 0 1", "vm"])


@pytest.mark.parametrize(
    ("replies", "prepared", "refused"),
    [
        (b"error no-slot errno=14\nok\nok\n", 0, True),
        (b"ok\nerror no-slot errno=14\nok\n", 0, False),
        (b"ok\nerror no-slot errno=14\nok\n", 1, True),
        (b"ok\nok\nerror arguments errno=22\n", 1, False),
        (b"error mmap errno=12\nok\nok\n", 0, False),
    ],
    ids=["the first", "not the first", "nothing was done yet", "too late", "it was tried"],
)
def test_refused_is_what_was_not_begun(replies: bytes, prepared: int, refused: bool) -> None:
    with agent_with(answers(replies)) as agent, pytest.raises(LabError) as caught:
        agent.must(["queue 0 hcall 1", "and together discard 0 1", "and answer 0"], 1.0, prepared)
    assert isinstance(caught.value, RefusedError) == refused


def test_silence_is_reported_after_the_timeout() -> None:
    stop = threading.Event()
    with agent_with(lambda _: stop.wait(10) and None) as agent:
        with pytest.raises(QuietError, match="no answer to 'hello'"):
            agent.run(["hello"], timeout=0.3)
        stop.set()


def test_the_machine_is_watched_while_waiting() -> None:
    stop = threading.Event()
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def watch() -> None:
            raise LabFailure("oops", "it broke", "tail")

        agent = Agent(ours, watch, QuietError)
        with pytest.raises(LabFailure, match="oops: it broke"):
            agent.run(["hello"], timeout=30)
    stop.set()


def test_a_closed_channel_is_reported() -> None:
    def peer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.shutdown(socket.SHUT_RDWR)

    with agent_with(peer) as agent, pytest.raises(QuietError, match="closed the command channel"):
        agent.run(["hello"])


def test_a_command_is_one_line() -> None:
    with agent_with(lambda _: None) as agent, pytest.raises(LabError, match="not one command"):
        agent.run(["hello\nvm"])


def test_a_wild_byte_count_is_refused() -> None:
    with (
        agent_with(answers(b"ok bytes=99999999999\n")) as agent,
        pytest.raises(LabError, match="announces 99999999999 bytes"),
    ):
        agent.run(["listing"])
