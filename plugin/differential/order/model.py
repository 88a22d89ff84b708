"""Run an order on the model."""

from collections.abc import Sequence
from typing import NamedTuple

from nestscope.decoders.state import State
from nestscope.plugin.differential.observe import observations
from nestscope.sim.events import Event, Result
from nestscope.sim.model import Model
from nestscope.sim.order import Held, run_in_order
from nestscope.sim.places import Turn
from nestscope.sim.steps import Steps


class Ran(NamedTuple):
    """What an order gave: the results of each operation, and the State after each turn."""

    results: list[list[Result]]
    states: list[State]


def model_in_order(
    model: Model,
    parts: Sequence[Sequence[Event]],
    turns: Sequence[Sequence[Turn]],
    results: Sequence[Sequence[Result]] | None = None,
) -> Ran:
    """Execute the events of each operation on the model, in turns.

    `results` are those of a machine: what only its host could decide is taken from them.

    Raises:
        UnmodelledError: where the model has no specification, or cannot be led so.
    """
    told = results or [[Result()] * len(part) for part in parts]
    paths = [
        Held(_path(model, part, answers), places)
        for part, answers, places in zip(parts, told, turns, strict=True)
    ]
    states: list[State] = []
    finished = run_in_order(paths, lambda: states.append(model.state()))
    model.end_step()
    return Ran(finished, states)


def _path(model: Model, part: Sequence[Event], answers: Sequence[Result]) -> Steps[list[Result]]:
    found = []
    for event, answer in zip(part, answers, strict=True):
        model.tell(observations(event, answer))
        found.append((yield from model.path(event)))
    return found
