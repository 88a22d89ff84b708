"""What GDB is attached to, and its memory, symbols and registers for the worker.

Nothing is ever written to the target. QEMU's physical mode is switched on for one
batch of reads and off again before GDB does anything else.
"""

import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

import gdb

from .layouts import Layouts
from .wire import Message

MAX_BATCH = 64 << 20
"""Bytes of one answer."""

# Only these reach the monitor: they read. `pmemsave` writes to a file of the worker's.
_MONITOR = re.compile(
    r"xp/[0-9]+gx 0x[0-9a-f]+|info mtree -f"
    r'|pmemsave 0x[0-9a-f]+ 0x[0-9a-f]+ "/[\w/.-]*/nestscope-\w+/memory"'
)
_CORE = re.compile(r"core dump file:\s+`(.*)', file type")
_LOST = ("closed", "communication error", "disconnected", "not connected", "Broken pipe")

Run = Tuple[int, int]


class TargetError(Exception):
    """The target cannot be used: one sentence says why, and what to do."""


class Target:
    """The target of the selected inferior.

    `generation` grows when the target ran or its memory was changed, or another
    target took its place.
    """

    def __init__(self) -> None:
        self.generation = 1
        self.layouts = Layouts()
        self._physical: Dict[int, bool] = {}
        gdb.events.cont.connect(self._changed)
        gdb.events.memory_changed.connect(self._changed)
        gdb.events.exited.connect(self._changed)
        gdb.events.new_objfile.connect(self._new_objfile)

    def _changed(self, _: Any) -> None:
        self.generation += 1

    def _new_objfile(self, _: Any) -> None:
        self.layouts.forget()

    def describe(self) -> Message:
        """Return what the worker must know of the target.

        Raises:
            TargetError: if there is none, or it runs.
        """
        inferior = gdb.selected_inferior()
        number, kind, where = _connection(inferior)
        if kind == "core":
            return {"kind": "core", "name": _core_file(), "vmlinux": _vmlinux()}
        if not kind or not inferior.pid:
            raise TargetError(
                "GDB has no target: connect with `target remote HOST:PORT` (a QEMU gdbstub, kgdb) "
                "or open a dump with `core-file FILE`"
            )
        if _runs(inferior):
            if not _at_a_condition():
                raise TargetError("the target is running: stop it first (Ctrl-C, or `interrupt`)")
            self.generation += 1  # GDB tells nobody when a condition lets the target go on
        return {
            "kind": "qemu" if self._has_physical_mode(inferior) else "virtual",
            "unix": "/" in where,
            "name": "{} {}".format(kind, where).strip(),
            "connection": number,
            "generation": self.generation,
            "vmlinux": _vmlinux(),
        }

    def answer(self, message: Message) -> Tuple[Message, bytes]:
        """Answer one question of the worker; what fails is in the answer."""
        try:
            reply, raw = self._answers[message["ask"]](self, message)
        except gdb.error as error:
            text = str(error).strip()
            lost = _is_lost() or any(sign in text for sign in _LOST)
            return {"error": text, "gone": lost}, b""
        if _is_lost():  # GDB may have told somebody else
            return {"error": "the connection was closed", "gone": True}, b""
        return reply, raw

    def _monitor(self, message: Message) -> Tuple[Message, bytes]:
        command = message["command"]
        if not _MONITOR.fullmatch(command):
            return {"error": "`monitor {}` is not allowed".format(command)}, b""
        text = gdb.execute("monitor " + command, to_string=True)
        return {}, text.encode("utf-8", "replace")

    def _physical_runs(self, message: Message) -> Tuple[Message, bytes]:
        inferior = gdb.selected_inferior()
        if _packet(inferior, "Qqemu.PhyMemMode:1") != "OK":
            return {"error": "the stub refuses its physical mode"}, b""
        try:
            return _read_runs(inferior, message["runs"])
        finally:
            try:
                _packet(inferior, "Qqemu.PhyMemMode:0")
            except gdb.error:
                pass  # the connection is lost, and the mode with it

    def _virtual_runs(self, message: Message) -> Tuple[Message, bytes]:
        return _read_runs(gdb.selected_inferior(), message["runs"])

    def _struct(self, message: Message) -> Tuple[Message, bytes]:
        return {"struct": self.layouts.find(message["name"])}, b""

    _answers = {
        "monitor": _monitor,
        "physical": _physical_runs,
        "virtual": _virtual_runs,
        "struct": _struct,
    }

    def _has_physical_mode(self, inferior: Any) -> bool:
        """Say whether the stub is QEMU's; asked once for each connection."""
        number = _connection(inferior)[0]
        if number not in self._physical:
            try:
                self._physical[number] = _packet(inferior, "qqemu.PhyMemMode") in ("0", "1")
            except gdb.error as error:
                raise TargetError("the target does not answer: {}".format(error))
        return self._physical[number]


def _is_lost() -> bool:
    """Say whether the inferior has no target any more."""
    inferior = gdb.selected_inferior()
    return not inferior.pid or inferior.connection is None


def _core_file() -> str:
    """Return the path of the dump that GDB reads."""
    # `Inferior.corefile` came with GDB 17.
    told = _CORE.search(gdb.execute("info files", to_string=True))
    if told is None:
        raise TargetError("GDB does not tell which dump it reads: open it again with `core-file`")
    return told.group(1)


def _runs(inferior: Any) -> bool:
    """Say whether a vCPU runs. In all-stop mode one tells, which costs no packet."""
    if gdb.parameter("non-stop"):
        return any(thread.is_running() for thread in inferior.threads())
    thread = gdb.selected_thread()
    return thread is None or thread.is_running()


def _at_a_condition() -> bool:
    """Say whether the target stands, though GDB calls it running.

    So it is while GDB decides whether to stop at a breakpoint.
    """
    try:
        gdb.selected_frame()
    except gdb.error:
        return False
    return True


def _vmlinux() -> Optional[str]:
    """Return GDB's symbol file, if it is a kernel's."""
    space = gdb.current_progspace()
    name = None if space is None else space.filename
    # An expression would read the target's memory, which may be a guest's at the moment.
    try:
        told = gdb.execute("info address linux_banner", to_string=True) if name else ""
    except gdb.error:
        return None  # a program's, or types alone
    return name if " at " in told else None


def _connection(inferior: Any) -> Tuple[int, str, str]:
    """Return number, kind ("remote", "core", "" for none) and place of the target."""
    connection = inferior.connection
    if connection is None:
        return 0, "", ""
    return connection.num, connection.type, connection.details or ""


def _packet(inferior: Any, text: str) -> str:
    """Send one packet of the remote protocol; return the stub's reply ("" = not supported)."""
    send = getattr(inferior.connection, "send_packet", None)
    if send is None:
        return ""  # not a remote target
    reply = send(text)
    return reply.decode("ascii", "replace") if reply else ""


def _read_runs(inferior: Any, runs: Sequence[Sequence[int]]) -> Tuple[Message, bytes]:
    """Read each (address, length); a run that cannot be read is zeros and listed in `bad`."""
    parts: List[bytes] = []
    bad: List[int] = []
    if sum(length for _, length in runs) > MAX_BATCH:
        return {"error": "more than {} bytes in one batch".format(MAX_BATCH)}, b""
    for number, (address, length) in enumerate(runs):
        try:
            parts.append(bytes(inferior.read_memory(address, length)))
        except gdb.MemoryError:
            parts.append(bytes(length))
            bad.append(number)
    return {"bad": bad}, b"".join(parts)


def unsigned(value: Any) -> int:
    """Return a value of GDB as an unsigned number of 64 bits."""
    return int(value) & (1 << 64) - 1


def little_endian() -> bool:
    """Say whether GDB takes the target for a little-endian one."""
    return "little" in gdb.execute("show endian", to_string=True)


def register(name: str) -> Optional[int]:
    """Return an unsigned register of the selected vCPU, or None if there is none."""
    try:
        value = gdb.selected_frame().read_register(name)
        return unsigned(value.cast(gdb.lookup_type("unsigned long")))
    except (gdb.error, ValueError):
        return None
