"""`nestscope walk`: where an address leads, stage by stage."""

import json
from typing import Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import (
    DebugFolder,
    Json,
    Modules,
    ProfileFile,
    Vmlinux,
)

_ADDRESS_BITS = 64


def walk(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="As for `state`; sample:NAME for a sample.")
    ],
    address: Annotated[
        str, typer.Argument(help="A guest real address, or with --lpid a nested one.")
    ],
    vm: Annotated[
        int | None, typer.Option(help="Which VM, from 0, where there are several.")
    ] = None,
    lpid: Annotated[
        int | None, typer.Option(help="The nested guest (l1_lpid) that the address is of.")
    ] = None,
    json_output: Json = False,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Walk an address through both stages, level by level, with permissions.

    Example: nestscope walk sample:6.12-64k 0x1000000 --lpid 2
    """
    from nestscope.plugin.library import open_source
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.present.walk_tree import walk_document, walk_tree

    number = _address(address)
    with open_source(
        source, vmlinux=vmlinux, modules=modules, profile=profile, debug=debug
    ) as opened:
        found = opened.walk(number, lpid=lpid, vm=vm)
    if json_output:
        print(json.dumps(walk_document(found)))
    else:
        terminal().print(walk_tree(found))


def _address(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise NestscopeError(f"{text!r} is not an address: write 0x... or decimal digits") from None
    if not 0 <= number < 1 << _ADDRESS_BITS:
        raise NestscopeError(f"{text} is not a 64-bit address")
    return number
