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
    figure: Annotated[
        bool, typer.Option("--figure", help="Draw the chains: cells, nodes, the last entry.")
    ] = False,
    heatmap: Annotated[
        bool, typer.Option("--map", help="Draw where the entries are, and how long chains get.")
    ] = False,
) -> None:
    """Show the nested MMU of every VM: memslots, nested guests, rmap chains.

    Examples:
      nestscope state dump.elf
      nestscope state --figure
      nestscope state ram:FILE --map
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
    from nestscope.plugin.present.terminal import terminal

    console = terminal()
    limit = None if show_all else 40
    if not (figure or heatmap):
        from nestscope.plugin.present.state_view import state_view

        console.print(*state_view(found, limit), sep="\n")
    for memslot in (memslot for vm in found.vms for memslot in vm.memslots):
        if heatmap:
            from nestscope.plugin.present.heatmap import Heatmap

            console.print(Heatmap(memslot, found.kernel.page_shift))
        if figure:
            from nestscope.plugin.present.figure import draw_rmap

            gfns = memslot.rmap.index["gfn"][:limit].tolist()
            print(draw_rmap(memslot.rmap, gfns, console.width))
            if len(gfns) < len(memslot.rmap):
                print(f"{len(memslot.rmap) - len(gfns)} more chains: --all draws them")
