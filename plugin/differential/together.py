"""Operations at the same time: the State must be one that some order of theirs leads to.

First every order of whole operations is tried, then interleavings of their critical
sections (`sim.steps`), drawn at random. Each is tried on a copy of the model; the first that
agrees with the kernel becomes the model.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from random import Random
from typing import NamedTuple

from nestscope.decoders.compare import Difference, Renaming, compare
from nestscope.decoders.state import State
from nestscope.plugin.differential.observe import compare_results, observations
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import Access, Event, Result
from nestscope.sim.model import Model
from nestscope.sim.steps import Steps

INTERLEAVINGS = 400
"""How many are drawn before the difference is believed."""


ReadPage = Callable[[int, int, int], bytes]


class Settled(NamedTuple):
    """The model and the renaming of the order that fits best, and what still differs."""

    model: Model
    renaming: Renaming
    differences: list[Difference]


def settle(
    model: Model,
    renaming: Renaming,
    events: Sequence[Event],
    results: Sequence[Result],
    observed: State,
    read_page: ReadPage,
) -> Settled:
    """Find an order of `events` that explains results and State; else the first order's rest.

    No State tells which of two stores was the last. So the stored bytes are looked at, too:
    `read_page(number, offset, length)` reads a host page.

    Raises:
        UnmodelledError: if the model covers none of the orders.
    """
    first: Settled | None = None
    problem: UnmodelledError | None = None
    for schedule in schedules(len(events)):
        # Both together: the renaming and the model share what is known of frames.
        tried, names = copy.deepcopy((model, renaming))
        try:
            expected = run(tried, events, results, schedule)
        except UnmodelledError as error:
            problem = error
            continue
        differences = [
            difference
            for event, left, right in zip(events, expected, results, strict=True)
            for difference in compare_results(event, left, right)
        ]
        differences += compare(tried.state(), observed, names)
        if not differences:
            differences = compare_stores(tried, names, events, read_page)
        settled = Settled(tried, names, differences)
        if not differences:
            return settled
        first = first or settled
    if first is None:
        raise problem or UnmodelledError("no order of the operations comes to an end")
    return first


def compare_stores(
    model: Model, names: Renaming, events: Sequence[Event], read_page: ReadPage
) -> list[Difference]:
    """Compare the bytes at the offset of each store, in all pages of data."""
    page_size = 1 << model.facts.page_shift
    memory = model.kvm.memory
    first = model.layout.userspace_addr + model.layout.data >> model.facts.page_shift
    data = {frame for page, frame in memory.pages.items() if page >= first}
    frames = [f for f in memory.contents if f in data and f in names.known]
    differences = []
    for store in events:
        if isinstance(store, Access) and store.kind == "store":
            offset = store.address % page_size
            for frame in frames:
                expected = bytes(memory.contents[frame][offset : offset + 8])
                seen = read_page(names.known[frame], offset, 8)
                if expected != seen:
                    path = f"memory[{names.known[frame]:#x}+{offset:#x}]"
                    differences.append(Difference(path, expected.hex(), seen.hex()))
    return differences


Schedule = tuple[int, ...] | Random
"""An order of whole operations, or what draws whose section is next."""


def schedules(count: int) -> Iterator[Schedule]:
    """Yield all orders of `count` operations, then random interleavings."""
    yield from permutations(range(count))
    for seed in range(INTERLEAVINGS):
        yield Random(seed)


def run(
    model: Model, events: Sequence[Event], results: Sequence[Result], schedule: Schedule
) -> list[Result]:
    """Run the events on a model in an order and return what each reports."""
    told = [observations(event, result) for event, result in zip(events, results, strict=True)]
    expected: dict[int, Result] = {}
    if isinstance(schedule, tuple):
        for i in schedule:
            expected[i] = model.step(events[i], told[i])
        return [expected[i] for i in range(len(events))]
    for fact in told:
        model.tell(fact)
    paths = {i: model.path(event) for i, event in enumerate(events)}
    waits: dict[int, Steps[Result]] = {}
    while paths:
        i = schedule.choice(sorted(paths))
        try:
            point = next(paths[i])
        except StopIteration as end:
            expected[i] = end.value
            del paths[i]
            paths.update(waits)
            waits.clear()
            continue
        if not isinstance(point, str) and not point.ready():
            waits[i] = paths.pop(i)
        else:
            paths.update(waits)
            waits.clear()
    if waits:
        raise UnmodelledError("operations at the same time wait for each other for ever")
    model.end_step()
    return [expected[i] for i in range(len(events))]
