"""Random programs for a host, the same for the same seed.

    random_operations(seed, layout, profile) -> operations without end
    mutate(program, rng, others)             -> a changed program

What a program is made of is the profile's to say (`sim.profile`). The guest's actions
are in `sim.generate_guest`, what no sane guest does in `sim.generate_wild`, those of the
VMM and its host in `sim.generate_vmm`.
"""

from collections.abc import Callable, Iterator
from random import Random

from nestscope.sim.generate_guest import Maker
from nestscope.sim.generate_vmm import VmmMaker
from nestscope.sim.generate_wild import WildMaker
from nestscope.sim.layout import GuestLayout
from nestscope.sim.mutate import mutate
from nestscope.sim.operations import Operation, SetPartitionTable
from nestscope.sim.profile import ACTIONS, CALM, DEFAULT, EVERYTHING, HOST, WILD, Profile, vary

__all__ = [
    "CALM",
    "DEFAULT",
    "EVERYTHING",
    "HOST",
    "WILD",
    "Profile",
    "mutate",
    "random_operations",
    "vary",
]


def random_operations(
    seed: int, layout: GuestLayout, profile: Profile = DEFAULT
) -> Iterator[Operation]:
    """Yield operations without end, beginning with a partition table."""
    yield SetPartitionTable(layout.ptcr)
    random = Random(seed)
    maker = Maker(random, layout, profile)
    known = actions(maker)
    chosen = [known[name] for name in ACTIONS]
    weights = [getattr(profile, name) for name in ACTIONS]
    while True:
        for operation in random.choices(chosen, weights)[0]():
            maker.follow(operation)
            yield operation


def actions(maker: Maker) -> dict[str, Callable[[], Iterator[Operation]]]:
    """Return every action by the name of its weight in the profile."""
    makers = (maker, WildMaker(maker), VmmMaker(maker))
    owners = {name: next(m for m in makers if hasattr(m, name)) for name in ACTIONS}
    return {name: getattr(owner, name) for name, owner in owners.items()}
