"""What the model is told about a step: what only the host could decide, from its own answer.

The one way in for such facts is what the event itself returned: whether a huge page could
be had, whether a page could be moved, whether memory for a memslot was there. Nothing is
read out of the State that is compared afterwards.
"""

import errno

from nestscope.sim.constants import U64
from nestscope.sim.events import AddSlot, CollapseHuge, Event, Migrate, MoveSlot, Result, SplitHuge
from nestscope.sim.facts import NOTHING_UNUSUAL, Observations


def observations(event: Event, result: Result) -> Observations:
    """Return the facts that the answer to an event holds."""
    refused = -result.ret & U64
    match event:
        case CollapseHuge() | SplitHuge() if result.ret:
            return Observations(refused=refused)
        case Migrate():
            return Observations(moved=result.value)
        case AddSlot() | MoveSlot() if refused == errno.ENOMEM:
            return Observations(failures=("memslot",))
    return NOTHING_UNUSUAL
