"""The `nestscope` command: its verbs, and how errors leave it.

Exit status: 0 clean, 1 findings or differences, 2 could not do it (one line on
standard error says what and what to do).
"""

import atexit
import errno
import gc
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nestscope.decoders.errors import NestscopeError
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

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What the end of a disk, a quota or a device says of standard output."""


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
            _interrupted()


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


def run() -> None:
    """Run the command line; every failure becomes one line and status 2."""
    # NumPy's linear algebra, which is not used here, would spend some 50 ms on threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The last thing before the end, when a search for cycles in all modules takes some 40 ms.
    atexit.register(gc.freeze)
    _prepare_output()
    try:
        app()
    except NestscopeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
            from nestscope.plugin.present.terminal import drop_output

            drop_output()
            _fail(f"standard output cannot be written: {error.strerror}")
        # A defect of nestscope itself: still one line, unless it is being looked for.
        if os.environ.get("NESTSCOPE_TRACEBACK"):
            raise
        _fail(
            f"internal error: {type(error).__name__}: {error}; "
            "please report it with what NESTSCOPE_TRACEBACK=1 prints"
        )


def _prepare_output() -> None:
    """Let the output be of any encoding, or closed by who has started us."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  for the life of the process
    if isinstance(sys.stdout, TextIOWrapper):
        # Box drawing is more than some encodings have; `?` is better than no output.
        sys.stdout.reconfigure(errors="replace")


def _interrupted() -> NoReturn:
    print("nestscope: interrupted", file=sys.stderr)
    sys.exit(130)


def _fail(sentence: str) -> NoReturn:
    print(f"nestscope: {sentence}", file=sys.stderr)
    sys.exit(2)
