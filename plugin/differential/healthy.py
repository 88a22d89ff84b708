"""Random programs on an unmodified kernel, audited after every step: nothing may fire.

What fires all the same is a defect of the kernel with an account under docs/findings: it
is told by its number, and what no account explains is told in full.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from nestscope.decoders.audit.audit import Finding, audit
from nestscope.decoders.audit.finding import INFO
from nestscope.decoders.state import State
from nestscope.plugin.differential.campaign.known import Context
from nestscope.plugin.differential.campaign.station import Station
from nestscope.plugin.differential.runner import REFUSED
from nestscope.plugin.qemu.errors import LabFailure
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT


@dataclass
class Health:
    """What many programs gave.

    `states` were audited, with so many shadow `leaves` and rmap `entries` altogether.
    `explained`: findings by the number of their account; `clean`: programs without any.
    `unexplained`: seed of the program, its step, the finding. `differing`, `unmodelled`:
    programs that the model ended; `failed`: programs that the machine ended.
    """

    programs: int = 0
    states: int = 0
    leaves: int = 0
    entries: int = 0
    clean: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    unexplained: list[tuple[int, int, Finding]] = field(default_factory=list)
    differing: int = 0
    unmodelled: int = 0
    failed: int = 0


def audit_programs(station: Station, seeds: range, steps: int) -> Iterator[Health]:
    """Run a random program of `steps` operations for each seed; yield the sum so far.

    Raises:
        NestscopeError: if the machine cannot be booted.
    """
    health = Health()
    for seed in seeds:
        fired = len(health.unexplained) + health.explained.total()
        try:
            _run(station, seed, steps, health)
        except LabFailure:
            health.failed += 1
            station.retire()
        health.programs += 1
        health.clean += fired == len(health.unexplained) + health.explained.total()
        yield health


def _run(station: Station, seed: int, steps: int, health: Health) -> None:
    comparison = station.fresh()
    by_hardware = station.booted().facts.rc_by_hardware
    context = Context()
    told: set[tuple[object, ...]] = set()
    for number, operation in enumerate(islice(random_operations(seed, LAYOUT), steps), start=1):
        try:
            step = comparison.step(operation)
        except REFUSED:
            continue
        except UnmodelledError:
            health.unmodelled += 1
            return
        state = step.observed
        health.states += 1
        health.leaves += sum(len(guest.leaves) for vm in state.vms for guest in vm.nested)
        health.entries += sum(len(slot.rmap.entries) for vm in state.vms for slot in vm.memslots)
        context.learn(state)
        for finding in audit(state, rc_by_hardware=by_hardware):
            key = (finding.rule, finding.gfn, finding.l1_lpid, finding.n_gpa)
            if finding.severity == INFO or key in told:
                continue
            told.add(key)  # what is broken stays so: it is one finding
            why = explain(context, finding, state)
            if why is None:
                health.unexplained.append((seed, number, finding))
            else:
                health.explained[why] += 1
        if step.differences:
            health.differing += 1
            return


def explain(context: Context, finding: Finding, state: State) -> str | None:
    """Return the number of the account that explains a finding by its cause, or None."""
    known = context.explain(finding._replace(rule=finding.rule.partition(".")[0]))
    if known is not None:
        return known.number
    if finding.rule.startswith("shadow.") and (finding.l1_lpid, finding.n_gpa) in context.hidden:
        return "0001"  # a leaf that the kernel's walk did not reach when its page went
    if finding.rule == "host.outside-memslot" and _reaches_out(finding, state):
        return "0003"
    return None


def _reaches_out(finding: Finding, state: State) -> bool:
    """Say whether the host leaf is huge and has a part in a memslot, and a part outside."""
    shift = state.kernel.page_shift or 0
    for vm in state.vms:
        leaf = vm.host_leaves.covering((finding.gfn or 0) << shift)
        if vm.kvm == finding.kvm and leaf is not None and leaf.shift > shift:
            first, end = leaf.address >> shift, leaf.address + (1 << leaf.shift) >> shift
            return any(s.base_gfn < end and first < s.base_gfn + s.npages for s in vm.memslots)
    return False
