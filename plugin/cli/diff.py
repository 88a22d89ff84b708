"""`nestscope diff`: the model against a live kernel."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import KernelName, MachineName, Modules, Qemu, Vmlinux

if TYPE_CHECKING:
    from rich.console import Console

    from nestscope.plugin.differential.plan import Plan
    from nestscope.plugin.differential.runner import Step
    from nestscope.plugin.differential.session import LiveComparison
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

    Examples:
      nestscope diff
      nestscope diff --random 500 --seed 7
      nestscope diff nestscope-seed7-step42.trace
      nestscope diff --audit docs/findings/0001-zero-entry-ends-a-chain.trace
    """
    from nestscope.plugin.differential.plan import make_plan
    from nestscope.plugin.differential.session import Via, open_comparison
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.present.units import size
    from nestscope.plugin.qemu.kernels import choose_kernel
    from nestscope.plugin.qemu.lab import Lab

    if via not in list(Via):
        raise NestscopeError(f"--via is one of {', '.join(Via)}, not {via!r}")
    plan = make_plan(trace, random_steps, seed)
    files = choose_kernel(kernel, vmlinux, modules)
    console = terminal()
    started = time.monotonic()
    with Lab.boot(files, machine=machine, qemu=qemu) as lab, open_comparison(lab, Via(via)) as live:
        pages = size(1 << live.machine.kernel.page_shift)
        console.print(
            f"{files.release} on {machine}, {pages} pages, read through {via}; "
            f"booted in {time.monotonic() - started:.1f} s"
        )
        clean = _run(live, plan, inject, audit, save, console)
    sys.exit(0 if clean else 1)


def _run(
    live: "LiveComparison",
    plan: "Plan",
    inject: int | None,
    audit: bool,
    save: Path,
    console: "Console",
) -> bool:
    """Run the plan, print what it shows, and return whether nothing differed or broke."""
    from rich.console import Console
    from rich.progress import Progress

    from nestscope.plugin.differential.inject import flip_rmap_word
    from nestscope.plugin.present.findings import findings_table
    from nestscope.plugin.present.steps import add_step, describe_tally, step_table
    from nestscope.sim.invariants import Violation, violations

    broken: list[Violation] = []
    rc_by_hardware = live.comparison.model.facts.rc_by_hardware
    table = step_table()
    done: list[Operation] = []
    last: Step | None = None
    # The bar is for people who watch; a file gets only the results.
    bar = Console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("comparing", total=plan.total)
        started = time.monotonic()
        for number, operation in enumerate(plan.operations, start=1):
            disturb = partial(flip_rmap_word, live) if number == inject else None
            done.append(operation)
            step = live.comparison.step(operation, disturb)
            if plan.show:
                add_step(table, step, last.observed if last else None)
            last = step
            progress.advance(task)
            if audit:
                broken = violations(step.observed, rc_by_hardware=rc_by_hardware)
            if step.differences or broken:
                break
        seconds = time.monotonic() - started
    if plan.show:
        console.print(table)
    if last is None:
        raise NestscopeError("there is no operation to run")
    if inject is not None and inject > last.number:
        raise NestscopeError(f"step {inject} was not reached: the run has {last.number} steps")
    if plan.show or last.differences or broken:
        _print_rmap(last, console)
    console.print(describe_tally(live.comparison.tally, seconds))
    if not last.differences:
        console.print("no difference between the model and the kernel")
        if not broken:
            return True
        console.print(f"but the kernel's State at step {last.number} breaks an invariant:")
        console.print(findings_table(broken))
    else:
        _print_differences(last, console)
    first = last.differences[0] if last.differences else broken[0].message
    _keep(live, done, save / f"nestscope-{plan.name}-step{last.number}.trace", str(first), console)
    return False


def _keep(
    live: "LiveComparison", done: "list[Operation]", path: Path, why: str, console: "Console"
) -> None:
    """Write the trace up to here and a capture of the machine, and say what to do with them."""
    from nestscope.plugin.differential.kept import keep_capture
    from nestscope.plugin.differential.trace_file import write_trace

    write_trace(path, done, f"step {len(done)}: {why}")
    captured = path.with_suffix(".elf.xz")
    keep_capture(live.lab, captured)
    console.print(f"look at it with: nestscope check {captured}", soft_wrap=True)
    console.print(f"replay it with: nestscope diff {path}", soft_wrap=True)


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
    from nestscope.sim.trace import format_operation

    count = len(step.differences)
    console.print(
        f"\n[bold red]step {step.number}[/] ({format_operation(step.operation)}): "
        f"{count} difference{'s' * (count > 1)}"
    )
    for difference in step.differences[:_SHOWN_DIFFERENCES]:
        console.print(f"  {difference.path}", style="bold", markup=False, highlight=False)
        console.print(f"    model:  {difference.expected}", markup=False, soft_wrap=True)
        console.print(f"    kernel: {difference.observed}", markup=False, soft_wrap=True)
    if count > _SHOWN_DIFFERENCES:
        console.print(f"  ... and {count - _SHOWN_DIFFERENCES} more")
