"""`nestscope campaign`: many random programs against real kernels."""

import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import KERNEL_HELP, OWN_MODULE_HELP, Qemu

if TYPE_CHECKING:
    from types import FrameType

    from nestscope.plugin.differential.campaign.campaign import Campaign, Limits
    from nestscope.plugin.differential.campaign.pool import Pool
    from nestscope.plugin.differential.campaign.programs import Programs
    from nestscope.plugin.differential.campaign.tasks import Options

_DURATION = re.compile(r"(\d+)([smh]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_MOST_SEEDS = 1_000_000
_NOTED_SEEDS = 100


def campaign(
    seeds: Annotated[
        str, typer.Option(help="Seeds of the programs: how many (20), or which (5-24).")
    ] = "20",
    seed: Annotated[int | None, typer.Option(help="One seed only.", min=0)] = None,
    steps: Annotated[int, typer.Option(help="Operations of a program.", min=1)] = 400,
    profiles: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            help="What programs are made of: calm, wild, host or everything; repeatable.",
            show_default="all",
        ),
    ] = None,
    programs: Annotated[
        int | None,
        typer.Option(
            help="Programs for each kernel and machine.", min=1, show_default="one for each seed"
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Run this long: 90s, 5m, 8h."),
    ] = None,
    kernels: Annotated[
        list[str] | None,
        typer.Option("--kernel", help=f"{KERNEL_HELP} {OWN_MODULE_HELP} Repeatable."),
    ] = None,
    machines: Annotated[
        list[str] | None,
        typer.Option("--machine", help="pseries, pseries-power10, powernv9, ...; repeatable."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Lab machines at the same time.", min=1)] = 1,
    dask: Annotated[
        str | None,
        typer.Option(metavar="SCHEDULER", help="Spread over a Dask cluster: tcp://HOST:PORT."),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Journal, corpus and findings; resumed if it has some.")
    ] = Path("nestscope-campaign"),
    first: Annotated[bool, typer.Option("--first", help="End at the first finding.")] = False,
    via: Annotated[
        str, typer.Option(help="Read the kernel through `ram`, `mi` or `mi-packets`.")
    ] = "ram",
    seed_defect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Put a defect into each kernel, to see that it is found; `list` names them.",
        ),
    ] = None,
    coverage: Annotated[
        str,
        typer.Option(
            help="What a program must reach to be kept and varied: new effects (`steps`), or new "
            "basic blocks of the kernel as well (`kernel`)."
        ),
    ] = "steps",
    shrink_tries: Annotated[
        int, typer.Option(help="Programs to run, at most, to shrink a finding.", min=0)
    ] = 400,
    qemu: Qemu = "qemu-system-ppc64",
) -> None:
    """Run random programs on the model and on real kernels, and look for what is wrong.

    A finding is a difference, a broken invariant, a kernel warning, an oops, or a hang.
    Each is shrunk to its shortest program and written to a folder of its own. The same
    command goes on where it was stopped or killed.

    Examples:
      nestscope campaign --seeds 20 --kernel 6.12-64k --kernel 6.1-64k --machine powernv9
      nestscope campaign --for 8h --jobs 2 --folder overnight
      nestscope campaign --first --seed-defect insert-skipped
    """
    from nestscope.plugin.differential.campaign.campaign import Limits
    from nestscope.plugin.differential.campaign.defects import DEFECTS
    from nestscope.plugin.differential.campaign.programs import Programs
    from nestscope.plugin.differential.campaign.tasks import Options

    if seed_defect == ["list"]:
        for name, defect in DEFECTS.items():
            print(f"{name:24} {defect.title}")
        return
    if coverage not in ("steps", "kernel"):
        raise NestscopeError(f"--coverage is steps or kernel, not {coverage!r}")
    options = Options(
        via=via,
        defects=tuple(seed_defect or ()),
        coverage=coverage,
        qemu=qemu,
        shrink_tries=shrink_tries,
    )
    chosen = [seed] if seed is not None else _seeds(seeds)
    seconds = None if duration is None else _seconds(duration)
    if programs is None and seconds is None:
        programs = len(chosen)
    made = Programs(chosen, steps, _known_profiles(profiles))
    limits = Limits(programs, seconds, first)
    found = _run(options, made, limits, kernels, machines, jobs, dask, folder)
    sys.exit(1 if found else 0)


def _run(
    options: "Options",
    programs: "Programs",
    limits: "Limits",
    kernels: list[str] | None,
    machines: list[str] | None,
    jobs: int,
    dask: str | None,
    path: Path,
) -> bool:
    """Run the campaign, print what it found, and return whether that is anything."""
    from contextlib import closing

    from nestscope.plugin.differential.campaign.campaign import Campaign
    from nestscope.plugin.differential.campaign.defects import find_defects
    from nestscope.plugin.differential.campaign.folder import CampaignFolder
    from nestscope.plugin.differential.campaign.progress import Progress, summary
    from nestscope.plugin.differential.campaign.tasks import Target
    from nestscope.plugin.differential.session import Via
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.qemu.kernels import DEFAULT_KERNEL, choose_kernel
    from nestscope.plugin.qemu.machine import DEFAULT_MACHINE, find_machine

    if options.via not in list(Via):
        raise NestscopeError(f"--via is one of {', '.join(Via)}, not {options.via!r}")
    find_defects(options.defects)
    targets = [
        Target(kernel, find_machine(machine).name)
        for kernel in kernels or [DEFAULT_KERNEL]
        for machine in machines or [DEFAULT_MACHINE]
    ]
    for target in targets:
        choose_kernel(target.kernel, None, None)  # what is missing is said before anything runs
    with closing(CampaignFolder.open(path)) as folder:
        done = sum(totals.programs for totals in folder.totals.values())
        if done:
            print(f"nestscope: going on in {path}, where {done} programs were run", file=sys.stderr)
        folder.begin(
            options,
            seeds=list(programs.seeds[:_NOTED_SEEDS]),
            steps=programs.steps,
            profiles=list(programs.profiles),
            targets=[str(target) for target in targets],
        )
        with closing(_pool(options, jobs, dask)) as pool, Progress() as progress:
            running = Campaign(folder, pool, targets, programs, limits, progress.show)
            with _stopped_by_signals(running):
                running.run()
        folder.journal.append("end", stopped=running.stopping)
        terminal().print(summary(folder))
        if running.stopping:
            print("nestscope: stopped; the same command goes on from here", file=sys.stderr)
        return bool(folder.findings)


def _pool(options: "Options", jobs: int, dask: str | None) -> "Pool":
    from nestscope.plugin.differential.campaign.pool import LocalPool

    if dask is not None:
        from nestscope.plugin.differential.campaign.dask_pool import DaskPool

        return DaskPool(dask, jobs, options)
    return LocalPool(jobs, options)


class _stopped_by_signals:  # noqa: N801  (used like a function)
    """While this is entered, Ctrl-C and SIGTERM stop a campaign in order."""

    def __init__(self, campaign: "Campaign") -> None:
        self._campaign = campaign

    def __enter__(self) -> None:
        self._before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, _number: int, _frame: "FrameType | None") -> None:
        self._campaign.stop()


def _known_profiles(names: list[str] | None) -> list[str]:
    """Return names of profiles, all of them if none is given.

    Raises:
        NestscopeError: for a name that there is not.
    """
    from nestscope.plugin.differential.campaign.programs import PROFILES

    for name in names or ():
        if name not in PROFILES:
            raise NestscopeError(f"--profile is one of {', '.join(PROFILES)}, not '{name}'")
    return names or list(PROFILES)


def _seeds(text: str) -> list[int]:
    """Return the seeds of `20` (1 to 20) or `5-24`.

    Raises:
        NestscopeError: if it is neither.
    """
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise NestscopeError(f"--seeds is a number (20) or a range (5-24), not '{text}'")
    start, end = (int(first), int(last)) if dash else (1, int(first))
    if not 0 <= end - start < _MOST_SEEDS:
        raise NestscopeError(f"--seeds {text} is no range of at most {_MOST_SEEDS} seeds")
    return list(range(start, end + 1))


def _seconds(text: str) -> float:
    """Return the seconds of `90s`, `5m`, `8h`.

    Raises:
        NestscopeError: if it is no duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise NestscopeError(f"--for takes a duration such as 90s, 5m or 8h, not '{text}'")
    return float(int(found[1]) * _UNITS[found[2]])
