"""The steps of a differential run for the terminal."""

from rich.table import Table
from rich.text import Text

from nestscope.decoders.state import Chain, State
from nestscope.plugin.differential.runner import Step, Tally
from nestscope.plugin.present.results import describe_result
from nestscope.plugin.present.tables import plain_table
from nestscope.plugin.present.units import count
from nestscope.sim.trace import format_operation


def step_table() -> Table:
    """Return the empty table; `add_step` fills it."""
    table = plain_table("step")
    table.add_column("operation")
    table.add_column("result")
    table.add_column("chains that changed (gfn: entries, head first)", ratio=1)
    table.add_column("same", justify="center")
    return table


def add_step(table: Table, step: Step, before: State | None, *, compared: bool = True) -> None:
    """Add one row: the operation, what it returned, which chains it changed.

    The last column says whether model and kernel agree, if they were compared.
    """
    same = Text("no", style="bold red") if step.differences else Text("yes", style="green")
    results = [text for text in (describe_result(item) for item in step.results) if text]
    table.add_row(
        str(step.number),
        format_operation(step.operation),
        ", ".join(results[-1:]),
        "\n".join(changed_chains(before, step.observed)),
        same if compared else Text("-"),
    )


def changed_chains(before: State | None, after: State) -> list[str]:
    """Return a line for each chain that differs between two States of one kernel."""
    old = _chains(before) if before is not None else {}
    new = _chains(after)
    return [
        f"{key[1]:#x}: {_entries(new.get(key))}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _entries(chain: Chain | None) -> str:
    if chain is None:
        return "empty"
    return " ".join(f"({entry.l1_lpid}, {entry.n_gpa:#x})" for entry in chain.entries)


def _chains(state: State) -> dict[tuple[int, int], Chain]:
    return {
        (memslot.id, chain.gfn): chain
        for vm in state.vms
        for memslot in vm.memslots
        for chain in memslot.rmap
    }


def describe_tally(tally: Tally, seconds: float, *, compared: bool = True) -> str:
    """One sentence: how much was compared (or only executed), and how fast."""
    rate = tally.steps / seconds if seconds > 0 else 0.0
    done = "compared" if compared else "executed"
    return (
        f"{count(tally.steps)} steps {done}, {count(tally.chains)} chains with "
        f"{count(tally.entries)} entries, {count(tally.leaves)} leaves; {rate:.0f} steps/s"
    )
