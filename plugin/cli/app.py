"""The verbs of `nestscope`, gathered. Nothing else: an import of this takes most of a start."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nestscope.plugin.cli import (
    browse,
    campaign,
    capture,
    check,
    coverage,
    decode,
    diff,
    explore,
    follow,
    gdb,
    inner,
    lab,
    profile,
    report,
    state,
    walk,
)


class Verbs(TyperGroup):
    """The verbs. Two ends are caught here, inside of the library's own handling.

    It would exit with 1, which here means "differences", both when the reader of
    our output leaves and when the user interrupts.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            from nestscope.plugin.present.terminal import leave_quietly

            leave_quietly()
        except KeyboardInterrupt:
            print("nestscope: interrupted", file=sys.stderr)
            sys.exit(130)


app = typer.Typer(
    name="nestscope",
    cls=Verbs,
    help="See, check and prove what KVM-HV on POWER does with nested guests.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from nestscope import __version__

        print(f"nestscope {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """See, check and prove what KVM-HV on POWER does with nested guests."""


app.command("decode")(decode.decode)
app.command("state")(state.state)
app.command("walk")(walk.walk)
app.command("check")(check.check)
app.command("browse")(browse.browse)
app.command("report")(report.report)
app.command("capture")(capture.capture)
app.command("convert")(capture.convert)
app.command("diff")(diff.diff)
app.command("coverage")(coverage.coverage)
app.command("campaign")(campaign.campaign)
app.command("follow")(follow.follow)
app.command("explore")(explore.explore)
app.command("gdb", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    gdb.gdb
)
lab.app.command("inner")(inner.inner)
app.add_typer(lab.app, name="lab")
app.add_typer(profile.app, name="profile")
