"""`nestscope follow`: a running kernel's own calls, each checked by the model."""

import json
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import DebugFolder, Json, Modules, ProfileFile, Vmlinux

if TYPE_CHECKING:
    from types import FrameType

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def follow(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="gdb:HOST:PORT or gdb:SOCKET, a QEMU gdbstub.")
    ],
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Follow this long: 90s, 5m, 8h."),
    ] = None,
    calls: Annotated[
        int | None, typer.Option(help="End when this many calls were checked.", min=1)
    ] = None,
    whole_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Compare everything this often.", min=0.1)
    ] = 10.0,
    first: Annotated[bool, typer.Option("--first", help="End at the first difference.")] = False,
    ram: Annotated[
        Path | None,
        typer.Option(help="QEMU's shared RAM file, if there is one: much quicker.", dir_okay=False),
    ] = None,
    inject: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Damage the live kernel, to see that it is noticed: drop or flip changes one "
            "rmap entry; a seeded defect of `nestscope campaign` patches its code, until the end.",
        ),
    ] = None,
    json_output: Json = False,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Follow a running kernel: what its own calls do is checked by the model.

    Attaches to the gdbstub of a running machine; nothing of nestscope need be in it.
    Each call of the functions that change host leaves, shadow leaves and rmap chains is
    taken as the model's input, and what it changed is compared. Ctrl-C ends it at any
    time; the machine then runs on without breakpoints.

    Examples:
      nestscope follow gdb:localhost:1234 --for 5m
      nestscope follow gdb:localhost:1234 --calls 1000 --json
    """
    from nestscope.plugin.differential.follow.attach import attach
    from nestscope.plugin.differential.follow.damage import injector
    from nestscope.plugin.differential.follow.follower import Found, Limits
    from nestscope.plugin.present.follow_view import (
        calls_table,
        follow_document,
        found_line,
        live_view,
        summary,
    )
    from nestscope.plugin.present.terminal import terminal

    limits = Limits(calls, _seconds(duration), whole_every, first=first)
    damage = None if inject is None else injector(inject, after=20)
    console = terminal()

    def tell(found: Found) -> None:
        if not json_output:
            console.print(found_line(found), markup=False, soft_wrap=True)

    _end_on_sigterm()
    with attach(
        target, vmlinux, modules, profile, debug, ram=ram, on_found=tell, disturb=damage
    ) as follower:
        if sys.stderr.isatty():
            print(f"following {follower.kernel.release}, Ctrl-C ends it", file=sys.stderr)
        ended = "limit"
        try:
            with live_view(follower.report):
                follower.run(limits)
        except KeyboardInterrupt:
            ended = "interrupted"
        finally:
            if damage is not None:
                damage.undo(follower)
        report, info, source = follower.report, follower.kernel.info, follower.start.source
    if json_output:
        print(json.dumps(follow_document(source, info, report, ended)))
    else:
        if damage is not None:
            console.print(damage.done or "there was nothing to damage yet")
        console.print(calls_table(report))
        console.print(summary(report), markup=False)
    sys.exit(1 if report.found else 0)


def _seconds(duration: str | None) -> float | None:
    """Return a duration in seconds.

    Raises:
        NestscopeError: if it is not one.
    """
    if duration is None:
        return None
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise NestscopeError(f"{duration!r} is not a duration: write it like 90s, 5m or 8h")
    return float(found[1]) * _UNITS[found[2]]


def _end_on_sigterm() -> None:
    """Let SIGTERM end like Ctrl-C: the machine must not stay stopped."""

    def end(number: int, frame: "FrameType | None") -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
