"""`nestscope browse`: look around in the terminal."""

import sys
from typing import Annotated

import typer

from nestscope.plugin.cli.options import (
    DebugFolder,
    Modules,
    ProfileFile,
    SourceName,
    Vmlinux,
)
from nestscope.plugin.samples import DEFAULT_SOURCE


def browse(
    source: SourceName = DEFAULT_SOURCE,
    every: Annotated[
        float, typer.Option(help="Read a live source again every so many seconds.", min=0)
    ] = 0,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Browse VMs, memslots, chains and trees; walk an address; search.

    Keys: g go to an address, / search, Enter walks the row, r reads again, q quits.

    Example: nestscope browse ram:FILE --every 2
    """
    from nestscope.decoders.errors import NestscopeError
    from nestscope.plugin.present.browse.app import Browser
    from nestscope.plugin.present.browse.subject import OpenedSubject

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NestscopeError("browse needs a terminal; `state` and `report` do without")
    given = {"vmlinux": vmlinux, "modules": modules, "profile": profile, "debug": debug}
    subject = OpenedSubject(source, **given)
    first = subject.read()  # what cannot be opened is said before the screen changes
    Browser(subject, every, first).run()
