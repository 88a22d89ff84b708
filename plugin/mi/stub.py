"""What is particular to QEMU's gdbstub: physical mode and the monitor behind it.

QEMU's physical mode never reports an unreadable address: what is no RAM reads as
zeros, and a device's registers are really read, with their side effects
(`target_memory_rw_debug` ignores the result of `cpu_physical_memory_read`). So the
RAM ranges are taken from the monitor's flat view, and nothing else is ever read.
"""

import re

from nestscope.plugin.mi.errors import GdbCommandError, TargetError
from nestscope.plugin.mi.transport import MiTransport

_RECEIVED = re.compile(r'received: "(.*)"')
_FLAT_RANGE = re.compile(r"^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|rom)\)", re.M)


def packet(transport: MiTransport, text: str, timeout: float) -> str:
    """Send one remote-protocol packet; return the stub's reply ("" = not supported).

    Raises:
        TargetError: if GDB shows no reply.
    """
    console = transport.execute(_console(f"maint packet {text}"), timeout).console
    received = _RECEIVED.search(console)
    if received is None:
        raise TargetError(f"the target gave no reply to the packet {text}: {console.strip()!r}")
    return received[1]


def set_physical_mode(transport: MiTransport, on: bool, timeout: float) -> None:
    """Switch the meaning of addresses: guest physical, or those of the vCPU's context.

    Raises:
        TargetError: if the stub is not QEMU's.
    """
    reply = packet(transport, f"Qqemu.PhyMemMode:{int(on)}", timeout)
    if reply != "OK":
        raise TargetError(
            f"the target has no physical mode (it answered {reply!r}): "
            "only the gdbstub of a QEMU system emulator can be read"
        )


def context_bytes(transport: MiTransport, address: int, length: int, timeout: float) -> bytes:
    """Return bytes at a virtual address of the vCPU's own context; b"" if it maps nothing there.

    For a stub in physical mode, which it is left in.

    Raises:
        TargetError: if the stub is not QEMU's.
    """
    set_physical_mode(transport, False, timeout)
    try:
        reply = packet(transport, f"m{address:x},{length:x}", timeout)
    finally:
        set_physical_mode(transport, True, timeout)
    try:
        data = bytes.fromhex(reply)
    except ValueError:
        return b""  # "E14"
    return data if len(data) == length else b""


def monitor(transport: MiTransport, command: str, timeout: float) -> str:
    """Run one QEMU monitor command through the stub; return its output.

    Raises:
        TargetError: if the stub has no monitor.
    """
    return transport.execute(monitor_command(command), timeout).console


def monitor_command(command: str) -> str:
    """Return the MI command that runs a QEMU monitor command."""
    return _console(f"monitor {command}")


def ram_ranges(transport: MiTransport, timeout: float) -> tuple[range, ...]:
    """Return the physical ranges that hold RAM or ROM, ascending and merged.

    Raises:
        TargetError: if the monitor does not tell.
    """
    try:
        text = monitor(transport, "info mtree -f", timeout)
    except GdbCommandError as error:
        raise TargetError(f"the target does not tell where its RAM is: {error.reason}") from error
    return ram_ranges_in(text)


def ram_ranges_in(text: str) -> tuple[range, ...]:
    """Return the ranges that QEMU's `info mtree -f` lists as RAM or ROM, ascending and merged.

    Raises:
        TargetError: if it lists none.
    """
    ranges: list[range] = []
    for view in text.replace("\r", "").split("\nFlatView #"):
        # The view of the vCPUs; PCI bridges and I/O ports have their own.
        if 'AS "memory"' not in view:
            continue
        for first, last, _ in _FLAT_RANGE.findall(view):
            start, stop = int(first, 16), int(last, 16) + 1
            if ranges and ranges[-1].stop == start:
                start = ranges.pop().start
            ranges.append(range(start, stop))
    if not ranges:
        raise TargetError("the target's memory map lists no RAM")
    return tuple(ranges)


def _console(command: str) -> str:
    quoted = command.replace("\\", "\\\\").replace('"', '\\"')
    return f'-interpreter-exec console "{quoted}"'
