"""What the model is told about a step: what only the host could decide, from its own answer.

The one way in for such facts is what the event itself returned: whether a huge page could
be had, whether a page could be moved, whether memory for a memslot was there. Nothing is
read out of the State that is compared afterwards.
"""

import errno
from dataclasses import replace

from nestscope.decoders.compare import Difference
from nestscope.sim.constants import U64
from nestscope.sim.events import (
    AddSlot,
    Age,
    AllocateHtab,
    CollapseHuge,
    Event,
    Fork,
    MapHugetlb,
    Migrate,
    MoveSlot,
    Result,
    SplitHuge,
)
from nestscope.sim.facts import NOTHING_UNUSUAL, Observations


def observations(event: Event, result: Result) -> Observations:
    """Return the facts that the answer to an event holds."""
    facts = _of_event(event, result)
    return replace(facts, huge_refused=result.huge_refused) if result.huge_refused else facts


def _of_event(event: Event, result: Result) -> Observations:
    refused = -result.ret & U64
    match event:
        case CollapseHuge() | SplitHuge() | Fork() | MapHugetlb() if result.ret:
            return Observations(refused=refused)
        case Migrate():
            return Observations(moved=result.value)
        case AddSlot() | MoveSlot() if refused == errno.ENOMEM:
            return Observations(failures=("memslot",))
        case AllocateHtab() if refused == errno.ENOMEM:
            return Observations(failures=("htab",))
    return NOTHING_UNUSUAL


def compare_results(event: Event, expected: Result, observed: Result) -> list[Difference]:
    """Return the fields in which two results of one event differ.

    A field that the model leaves at None is none that it predicts. Whether a page was
    young is told to the host's memory management only; whoever asked for `Age` hears 0.
    """
    if isinstance(event, Age) and expected.ret == 1:
        expected = expected._replace(ret=0)
    name = type(event).__name__.lower()
    pairs = zip(expected._fields, expected, observed, strict=True)
    return [
        Difference(f"result.{name}.{member}", hex(left), "nothing" if right is None else hex(right))
        for member, left, right in pairs
        if left is not None and left != right
    ]
