"""`nestscope diff`: the model against a live kernel."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import KernelName, MachineName, Modules, Qemu, Vmlinux

if TYPE_CHECKING:
    from rich.console import Console

    from nestscope.plugin.differential.one_side import On, OneSide
    from nestscope.plugin.differential.plan import Plan
    from nestscope.plugin.differential.replay import Outcome
    from nestscope.plugin.differential.runner import Comparison, Step
    from nestscope.plugin.differential.session import LiveComparison, Via
    from nestscope.plugin.qemu.kernel_files import KernelFiles
    from nestscope.plugin.qemu.lab import Lab
    from nestscope.sim.facts import HostFacts
    from nestscope.sim.operations import Operation

_SHOWN_CHAINS = 12
_SHOWN_DIFFERENCES = 10


def diff(
    trace: Annotated[
        Path | None, typer.Argument(help="A trace file to replay.", dir_okay=False)
    ] = None,
    random_steps: Annotated[
        int | None, typer.Option("--random", metavar="STEPS", min=1, help="Random operations.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random operations.")] = 1,
    via: Annotated[
        str, typer.Option(help="Read the kernel through `ram`, `mi` or `mi-packets`.")
    ] = "ram",
    inject: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            min=1,
            help="Flip bits of one rmap word in the live kernel after this step.",
        ),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", help="Run on the `model` alone, a `kernel` alone, or `both`.")
    ] = "both",
    audit: Annotated[
        bool, typer.Option("--audit", help="Stop where the kernel breaks an invariant, too.")
    ] = False,
    save: Annotated[
        Path, typer.Option(help="Folder for the trace of a difference, and a capture.")
    ] = Path(),
    kernel: KernelName = "6.12-64k",
    machine: MachineName = "pseries",
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    qemu: Qemu = "qemu-system-ppc64",
) -> None:
    """Run operations on the model and on a live kernel, and compare after every step.

    Without TRACE and --random a built-in scenario shows every form of the rmap.
    With --on one side runs alone: nothing is compared, and --on model needs no QEMU.

    Examples:
      nestscope diff
      nestscope diff --random 500 --seed 7
      nestscope diff nestscope-seed7-step42.trace
      nestscope diff --on model --audit my.trace
      nestscope diff --audit docs/findings/0001-zero-entry-ends-a-chain.trace
    """
    from nestscope.plugin.differential.one_side import On
    from nestscope.plugin.differential.plan import make_plan
    from nestscope.plugin.differential.session import Via
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.qemu.kernels import choose_kernel

    if on not in list(On):
        raise NestscopeError(f"--on is one of {', '.join(On)}, not {on!r}")
    if inject is not None and on != On.BOTH:
        raise NestscopeError("--inject is noticed by comparing: leave out --on")
    if via not in list(Via):
        raise NestscopeError(f"--via is one of {', '.join(Via)}, not {via!r}")
    plan = make_plan(trace, random_steps, seed)
    console = terminal()
    if on == On.MODEL:
        sides = _model_alone(kernel.partition("@")[0], machine)
        clean = _run(sides, plan, inject, audit, save, console)
    else:
        files = choose_kernel(kernel, vmlinux, modules)
        with _sides(files, On(on), Via(via), machine, qemu, plan.processors, console) as sides:
            clean = _run(sides, plan, inject, audit, save, console)
    sys.exit(0 if clean else 1)


@dataclass(frozen=True)
class _Sides:
    """What runs: both sides or one; the live comparison and the lab, if there are any."""

    on: "On"
    run: "Comparison | OneSide"
    facts: "HostFacts"
    live: "LiveComparison | None" = None
    lab: "Lab | None" = None


def _model_alone(kernel: str, machine: str) -> _Sides:
    from nestscope.plugin.differential.one_side import ModelMachine, On, OneSide, typical_facts
    from nestscope.sim.guest import Guest
    from nestscope.sim.model import Model

    facts = typical_facts(kernel, machine)
    run = OneSide(Guest(), ModelMachine(Model(facts)))
    run.start()
    return _Sides(On.MODEL, run, facts)


@contextmanager
def _sides(
    files: "KernelFiles",
    on: "On",
    via: "Via",
    machine: str,
    qemu: str,
    processors: int,
    console: "Console",
) -> Iterator[_Sides]:
    """Boot, and put a guest into the kernel, with a model beside it or without."""
    from nestscope.plugin.differential.one_side import On, OneSide
    from nestscope.plugin.differential.session import host_facts, open_comparison, open_machine
    from nestscope.plugin.present.units import size
    from nestscope.plugin.qemu.lab import Lab
    from nestscope.sim.guest import Guest

    def say(page_shift: int) -> None:
        console.print(
            f"{files.release} on {machine}, {size(1 << page_shift)} pages, read through {via}; "
            f"booted in {time.monotonic() - started:.1f} s"
        )

    started = time.monotonic()
    with Lab.boot(files, machine=machine, qemu=qemu, processors=processors) as lab:
        if on == On.BOTH:
            with open_comparison(lab, via) as live:
                say(live.machine.kernel.page_shift)
                facts = live.comparison.model.facts
                yield _Sides(on, live.comparison, facts, live, lab)
            return
        with open_machine(lab, via) as alone:
            facts = host_facts(lab, alone.machine.kernel)
            run = OneSide(Guest(), alone.machine)
            run.start()
            say(facts.page_shift)
            yield _Sides(on, run, facts, None, lab)


def _run(
    sides: _Sides,
    plan: "Plan",
    inject: int | None,
    audit: bool,
    save: Path,
    console: "Console",
) -> bool:
    """Run the plan, print what it shows, and return whether nothing differed or broke."""
    from rich.console import Console
    from rich.progress import Progress

    from nestscope.plugin.differential.one_side import On
    from nestscope.plugin.differential.replay import Inject, replay
    from nestscope.plugin.present.steps import add_step, describe_tally, step_table

    compared = sides.on == On.BOTH
    table = step_table()
    # The bar is for people who watch; a file gets only the results.
    bar = Console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("comparing", total=plan.total)
        started = time.monotonic()

        def watch(step: "Step | None", last: "Step | None") -> None:
            progress.advance(task)
            if plan.show and step is not None:
                add_step(table, step, last.observed if last else None, compared=compared)

        outcome = replay(
            sides.run,
            plan,
            watch,
            audit_rc=sides.facts.rc_by_hardware if audit else None,
            inject=Inject(inject, sides.live) if inject and sides.live else None,
        )
        seconds = time.monotonic() - started
    if plan.show:
        console.print(table)
    last = outcome.last
    if outcome.failure is not None:
        _print_failure(outcome, plan, save, console)
        return False
    if last is None:
        raise NestscopeError("there is no operation that can be run")
    if inject is not None and inject > last.number:
        raise NestscopeError(f"step {inject} was not reached: the run has {last.number} steps")
    if plan.show or last.differences or outcome.broken:
        _print_rmap(last, console)
    console.print(describe_tally(sides.run.tally, seconds, compared=compared))
    _print_refused(outcome, plan, console)
    return _judge(sides, plan, outcome, last, save, console)


def _print_failure(outcome: "Outcome", plan: "Plan", save: Path, console: "Console") -> None:
    """Say how the kernel ended, and keep the trace; no capture of it is to be trusted."""
    from nestscope.sim.trace import format_operation

    count = len(outcome.done)
    console.print(f"operation {count} ({format_operation(outcome.done[-1])}) ends the kernel:")
    console.print(str(outcome.failure), markup=False, highlight=False, soft_wrap=True)
    path = save / f"nestscope-{plan.name}-step{count}.trace"
    first = str(outcome.failure).splitlines()[0]
    _keep(None, outcome.done, path, first, console)


def _judge(
    sides: _Sides, plan: "Plan", outcome: "Outcome", last: "Step", save: Path, console: "Console"
) -> bool:
    """Print what differs or is broken, keep it, and return whether nothing is."""
    from nestscope.plugin.differential.one_side import On
    from nestscope.plugin.present.findings import findings_table

    compared, broken = sides.on == On.BOTH, outcome.broken
    if not last.differences:
        console.print(
            "no difference between the model and the kernel"
            if compared
            else f"on the {sides.on} alone: nothing was compared"
        )
        if not broken:
            return True
        whose = "kernel" if compared else sides.on
        console.print(f"but the {whose}'s State at step {last.number} breaks an invariant:")
        console.print(findings_table(broken))
    else:
        _print_differences(last, console)
    first = last.differences[0] if last.differences else broken[0].message
    _keep(
        sides.lab,
        outcome.done,
        save / f"nestscope-{plan.name}-step{last.number}.trace",
        str(first),
        console,
    )
    return False


def _keep(
    lab: "Lab | None", done: "list[Operation]", path: Path, why: str, console: "Console"
) -> None:
    """Write the trace up to here and a capture of the machine, and say what to do with them."""
    from nestscope.plugin.differential.kept import keep_capture
    from nestscope.plugin.differential.trace_file import write_trace

    write_trace(path, done, f"step {len(done)}: {why}")
    if lab is not None:
        captured = path.with_suffix(".elf.xz")
        keep_capture(lab, captured)
        console.print(f"look at it with: nestscope check {captured}", soft_wrap=True)
    console.print(f"replay it with: nestscope diff {path}", soft_wrap=True)


def _print_refused(outcome: "Outcome", plan: "Plan", console: "Console") -> None:
    from nestscope.sim.trace import format_operation

    if not outcome.refused:
        return
    count = len(outcome.refused)
    console.print(f"{count} operation{'s' * (count > 1)} left out: no guest or VMM can do them")
    for operation, why in outcome.refused if plan.show else ():
        text = f"  {format_operation(operation)}: {why}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_rmap(step: "Step", console: "Console") -> None:
    from nestscope.plugin.present.figure import draw_rmap

    for vm in step.observed.vms:
        for memslot in vm.memslots:
            used = [chain.gfn for chain in memslot.rmap]
            empty = next(gfn for gfn in range(memslot.base_gfn, 1 << 52) if gfn not in used)
            shown = sorted([empty, *used[:_SHOWN_CHAINS]])
            print(draw_rmap(memslot.rmap, shown, console.width))
            if len(used) > _SHOWN_CHAINS:
                print(f"... and {len(used) - _SHOWN_CHAINS} more chains")


def _print_differences(step: "Step", console: "Console") -> None:
    from rich.text import Text

    from nestscope.sim.trace import format_operation

    count = len(step.differences)
    told = f" ({format_operation(step.operation)}): {count} difference{'s' * (count > 1)}"
    console.print(Text.assemble((f"\nstep {step.number}", "bold red"), told))
    for difference in step.differences[:_SHOWN_DIFFERENCES]:
        console.print(f"  {difference.path}", style="bold", markup=False, highlight=False)
        console.print(f"    model:  {difference.expected}", markup=False, soft_wrap=True)
        console.print(f"    kernel: {difference.observed}", markup=False, soft_wrap=True)
    if count > _SHOWN_DIFFERENCES:
        console.print(f"  ... and {count - _SHOWN_DIFFERENCES} more")
