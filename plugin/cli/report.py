"""`nestscope report`: one self-contained HTML page about a source."""

import sys
from datetime import UTC, datetime
from pathlib import Path
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


def report(
    source: SourceName = DEFAULT_SOURCE,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The page to write.", dir_okay=False)
    ] = Path("report.html"),
    against: Annotated[
        str | None, typer.Option(help="A second source: the page lists how its State differs.")
    ] = None,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Write a report that opens in any browser: maps, chains, trees, findings, search.

    The page needs no network and no other file.

    Example: nestscope report dump.elf -o report.html --against before.elf
    """
    from nestscope import __version__
    from nestscope.plugin.library import compare, open_source
    from nestscope.plugin.output import new_file
    from nestscope.plugin.present.report.page import report_page
    from nestscope.plugin.present.units import counted

    given = {"vmlinux": vmlinux, "modules": modules, "profile": profile, "debug": debug}
    with open_source(source, **given) as opened:
        state = opened.state()
        findings = opened.check().documents()
    differences = None
    if against is not None:
        with open_source(against, **given) as second:
            differences = compare(state, second.state())
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = report_page(
        state,
        findings,
        made=f"made {moment} by nestscope {__version__}",
        differences=differences,
        other=against or "",
    )
    with new_file(output) as file:
        file.write(page.encode())
    print(
        f"{output}: {counted(len(state.vms), 'VM')}, {counted(len(findings), 'finding')}",
        file=sys.stderr,
    )
