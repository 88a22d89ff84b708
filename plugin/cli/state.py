"""`nestscope state`: what is there."""

import sys
from typing import Annotated

import typer

from nestscope.plugin.cli.options import (
    DebugFolder,
    Json,
    Modules,
    ProfileFile,
    SourceName,
    Vmlinux,
)
from nestscope.plugin.samples import DEFAULT_SOURCE


def state(
    source: SourceName = DEFAULT_SOURCE,
    json_output: Json = False,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every chain.")] = False,
) -> None:
    """Show the nested MMU of every VM: memslots, nested guests, rmap chains.

    Example: nestscope state dump.elf
    """
    from nestscope.decoders.state_json import iter_json
    from nestscope.plugin.target import open_target

    with open_target(source, vmlinux, modules, profile, debug) as target:
        found = target.state()
    if json_output:
        for piece in iter_json(found):
            sys.stdout.write(piece)
        print()
        return
    from nestscope.plugin.present.state_view import state_view
    from nestscope.plugin.present.terminal import terminal

    terminal().print(*state_view(found, None if show_all else 40), sep="\n")
