"""`nestscope coverage`: which basic blocks of the kernel's nested code ran."""

import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.cli.options import Json, KernelName, Modules, Vmlinux

if TYPE_CHECKING:
    from nestscope.plugin.differential.plan import Plan

_STORM = 40


def coverage(
    traces: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TRACE]...", help="Trace files to run, each in a VM of its own."),
    ] = None,
    random_steps: Annotated[
        int | None, typer.Option("--random", metavar="STEPS", min=1, help="Random operations.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random operations.")] = 1,
    function: Annotated[
        list[str] | None,
        typer.Option(help="A function of kvm-hv, or a pattern of names; may be repeated."),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--listing", help="Print the disassembly, block by block.")
    ] = False,
    require: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="End with 1 where fewer blocks of a function ran, or one has no reason.",
        ),
    ] = None,
    storm: Annotated[
        int | None,
        typer.Option(
            metavar="ROUNDS",
            min=0,
            help="Run all so many times more with a second processor that interrupts the first "
            "all the time. Without TRACE it is one trace that is run so; default 40, else 0.",
        ),
    ] = None,
    fail_allocations: Annotated[
        bool,
        typer.Option(
            "--fail-allocations",
            help="Let allocations fail, too: GDB writes to registers of the live kernel.",
        ),
    ] = False,
    memory: Annotated[
        str, typer.Option(help="RAM; less than 3G has no room for a page of 1 GiB.")
    ] = "3G",
    kernel: KernelName = "6.12-64k",
    machine: Annotated[
        list[str] | None,
        typer.Option(help="A machine; may be repeated: what ran on any of them is covered."),
    ] = None,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    qemu: Annotated[
        list[str] | None,
        typer.Option(help="The QEMU program; may be repeated, as one behaves unlike another."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run traces on a live kernel and tell which basic blocks of its nested code ran.

    Without TRACE and --random the traces that come with nestscope are run: they
    were written to reach all blocks. A block that was not reached is listed with
    the reason that is declared for it.

    Examples:
      nestscope coverage --machine pseries --machine powernv9 --require 85
      nestscope coverage my.trace --function 'kvmhv_*nest*' --listing
      nestscope coverage --random 500 --seed 7 --json
    """
    import json

    from nestscope.plugin.differential.coverage.coverage import MODULE, OBJECTIVE
    from nestscope.plugin.differential.coverage.measure import measure, shipped_storm
    from nestscope.plugin.differential.coverage.module_text import ModuleText
    from nestscope.plugin.differential.coverage.reasons import load_reasons
    from nestscope.plugin.differential.coverage.report import coverage_document, make_report
    from nestscope.plugin.differential.plan import make_plan
    from nestscope.plugin.present.coverage import coverage_view
    from nestscope.plugin.present.terminal import terminal
    from nestscope.plugin.qemu.kernels import choose_kernel
    from nestscope.plugin.qemu.lab import QEMU, Lab

    files = choose_kernel(kernel, vmlinux, modules)
    text = ModuleText.of_module(files.modules_dir, MODULE)
    plans = _plans(traces or [], random_steps, seed)
    own = not traces and random_steps is None
    rounds = storm if storm is not None else _STORM if own else 0
    stormy = [make_plan(shipped_storm(), None, seed)] if own else plans
    processors = max(2 if rounds else 1, *(plan.processors for plan in plans))
    counts: Counter[int] = Counter()
    runs: list[str] = []
    # What is true of every machine that was measured.
    conditions = {"sets_rc"} if fail_allocations else {"sets_rc", "no_failures"}
    for name, program in product(machine or ["pseries"], qemu or [QEMU]):
        where = f"{name}, {program}"

        def done(what: str, new: int, where: str = where) -> None:
            runs.append(f"{where}: {what}")
            if sys.stderr.isatty():
                print(f"{where}: {what}: {new} new blocks", file=sys.stderr)

        with Lab.boot(
            files,
            machine=name,
            memory=memory,
            qemu=program,
            coverage=True,
            processors=processors,
        ) as lab:
            if not lab.behaviour.sets_rc:
                conditions.discard("sets_rc")
            functions, more = measure(
                lab,
                text,
                plans,
                function or OBJECTIVE,
                storm=stormy * rounds,
                failures=fail_allocations,
                progress=done,
            )
        counts.update(more)
    reasons = load_reasons(text.build_id, conditions, functions=functions)
    report = make_report(files.release, text.build_id, runs, functions, counts, reasons)
    if as_json:
        print(json.dumps(coverage_document(report), indent=1))
    else:
        terminal().print(coverage_view(report, listing=listing))
    short = require is not None and (
        bool(report.unexplained) or any(some.percent < require for some in report.functions)
    )
    sys.exit(1 if report.wrong or short else 0)


def _plans(traces: list[Path], random_steps: int | None, seed: int) -> "list[Plan]":
    """Return what to run: the traces, random steps, or the traces that come with nestscope."""
    from nestscope.plugin.differential.coverage.measure import shipped_traces
    from nestscope.plugin.differential.plan import make_plan

    if traces and random_steps is not None:
        raise NestscopeError("give traces or --random, not both")
    if random_steps is not None:
        plan = make_plan(None, random_steps, seed)
        # Made once, as a storm runs it again.
        return [replace(plan, operations=tuple(plan.operations))]
    return [make_plan(trace, None, seed) for trace in traces or shipped_traces()]
