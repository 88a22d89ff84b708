"""A broken interleaving as the turns of an order: who is held at which place of the kernel."""

from nestscope.sim.explore.engine import Run
from nestscope.sim.explore.survey import Broken
from nestscope.sim.explore.world import ExploredWorld, copies_of
from nestscope.sim.places import PLACES, STAY, Place, section_of
from nestscope.sim.steps import Point

OWNERS = (
    ("guest fault", "kvmppc_book3s_radix_page_fault"),
    ("fault", "kvmhv_nested_page_fault"),
    ("tlbie", "kvmhv_emulate_tlbie_tlb_addr"),
    ("flush", "kvmhv_emulate_tlbie_lpid"),
    ("drop", "kvmhv_emulate_tlbie_lpid"),
    ("logging", "kvmppc_core_commit_memory_region_hv"),
    ("slot delete", "kvmppc_core_flush_memslot_hv"),
)
"""Of a section that several functions have: which one an operation is in, by its name."""


def order_of(broken: Broken) -> str:
    """Return the shortest interleaving that was found as the line of an order, for people.

    The operations are named as in the explorer. In its last turn an operation goes on to the
    next place that there is; `?` stands where there is none in an earlier turn.
    """
    tasks = broken.scenario.tasks
    run = Run(copies_of(broken.scenario.make())(), tasks)
    turns: list[tuple[int, list[Point | None]]] = []
    for number in broken.schedule:
        run.step(number)
        if not turns or turns[-1][0] != number:
            turns.append((number, []))
        turns[-1][1].append(run.point(number))
    for at, (number, arrivals) in enumerate(turns):
        if all(later != number for later, _ in turns[at + 1 :]):
            arrivals.extend(next_place(run, number, arrivals[-1]))
    columns: list[list[str]] = [[] for _ in tasks]
    rounds, last = 1, -1
    for number, arrivals in turns:
        rounds, last = rounds + (number <= last), number
        columns[number] += [STAY] * (rounds - 1 - len(columns[number]))
        if arrivals[-1] is not None:
            columns[number].append(place_after(tasks[number].name, arrivals))
    held = (
        " ".join([task.name, *(["at", *places] if places else [])])
        for task, places in zip(tasks, columns, strict=True)
    )
    return " | ".join(held)


def next_place(run: Run[ExploredWorld], number: int, point: Point | None) -> list[Point | None]:
    """Let a task go on to a point that has a place, or to its end; return the points."""
    points = []
    while point is not None and kernel_place("", point) is None and number in run.enabled():
        run.step(number)
        point = run.point(number)
        points.append(point)
    return points


def place_after(task: str, arrivals: list[Point | None]) -> str:
    """Return the place at which a turn ends that came to these points, one after the other."""
    places = [kernel_place(task, point) for point in arrivals]
    if places[-1] is None:
        return "?"
    return str(Place.parse(places[-1])._replace(times=places.count(places[-1])))


def kernel_place(task: str, point: Point | None) -> str | None:
    """Return the place just before a point of a path, None if there is none."""
    known = PLACES.get(section_of(point), ()) if point is not None else ()
    owner = next((function for name, function in OWNERS if task.startswith(name)), "")
    own = [place for place in known if place.partition(":")[0] == owner]
    return next(iter(own or known), None)
