"""`Profile`: how often the generator does what."""

from dataclasses import dataclass, fields, replace
from random import Random

HABITS = ("remap_in_place", "any_rights", "any_lpid", "crowd")
"""Fields of a profile that are probabilities (0 to 1); all others are weights."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a random program is made of.

    Weights, relative to each other, 0 for never: `map_data`, `access_data`, ... are
    the actions of `sim.generate.actions`: from `add_slot` on those of the VMM and its host.

    Habits, probabilities: `remap_in_place`: another guest page is mapped at a nested
    address without an unmap and a tlbie (finding 0002 follows). `any_rights`: a leaf
    gets any permissions, write-only ones among them. `any_lpid`: an l1_lpid is any
    32-bit number. `crowd`: an l1_lpid is one of only four, so that chains collide.
    """

    map_data: float = 20
    access_data: float = 40
    tlbie_address: float = 12
    map_code: float = 3
    fetch: float = 5
    map_large: float = 2
    access_large: float = 4
    map_small: float = 1
    unmap: float = 4
    discard: float = 6
    write_data: float = 4
    tlbie_guest: float = 2
    tlbie_all: float = 0.5
    tlbie_invalid: float = 1
    drop: float = 1
    bad_ptcr: float = 0.5
    stray_access: float = 2
    map_anywhere: float = 0
    access_anywhere: float = 0
    write_word: float = 0
    odd_tree: float = 0
    odd_ptcr: float = 0
    odd_tlbie: float = 0
    odd_entry: float = 0
    range_invalidate: float = 0
    discard_anywhere: float = 0
    outside_memory: float = 0
    mix_pages: float = 0
    add_slot: float = 0
    delete_slot: float = 0
    move_slot: float = 0
    slot_flags: float = 0
    dirty_log: float = 0
    clear_dirty_log: float = 0
    collapse: float = 0
    advise_huge: float = 0
    map_hugetlb: float = 0
    clear_refs: float = 0
    split: float = 0
    protect: float = 0
    migrate: float = 0
    remap: float = 0
    age: float = 0
    fork: float = 0
    destroy: float = 0
    switch_mmu: float = 0
    together: float = 0
    remap_in_place: float = 0
    any_rights: float = 0
    any_lpid: float = 0
    crowd: float = 0.5


ACTIONS = tuple(field.name for field in fields(Profile) if field.name not in HABITS)
"""The fields that are weights: names of the generator's actions."""

CALM = Profile()
"""The guest alone: no invariant breaks but by finding 0001, and nobody waits."""

HOST = replace(
    CALM,
    add_slot=2,
    delete_slot=0.7,
    move_slot=0.7,
    slot_flags=1.5,
    dirty_log=2,
    clear_dirty_log=0.1,
    collapse=1.5,
    advise_huge=1.5,
    map_hugetlb=0.3,
    clear_refs=0.3,
    split=0.7,
    protect=1,
    migrate=0.5,
    remap=0.7,
    age=1,
    fork=1,
    destroy=0.1,
    switch_mmu=0.1,
    together=1,
)
"""The guest and all that its VMM and host do to it."""

_WILD = {
    "map_anywhere": 6,
    "access_anywhere": 8,
    "write_word": 6,
    "odd_tree": 0.7,
    "odd_ptcr": 1,
    "odd_tlbie": 3,
    "odd_entry": 2,
    "range_invalidate": 4,
    "discard_anywhere": 1,
    "outside_memory": 0.1,
    "mix_pages": 1,
    "remap_in_place": 0.2,
    "any_rights": 0.3,
    "any_lpid": 0.02,
}

WILD = replace(CALM, **_WILD)
"""A guest that does whatever the interface accepts, what breaks invariants included.

A nested guest that finds no end is taken out after a second: `any_rights` and
`outside_memory` cost time.
"""

EVERYTHING = replace(HOST, **_WILD)
"""Such a guest, and all that its VMM and host do to it."""

DEFAULT = HOST
"""What `random_operations` does when it is not told otherwise."""


def vary(profile: Profile, rng: Random) -> Profile:
    """Return a neighbour of a profile: two fields changed.

    A weight is halved, doubled, switched off or switched on; a habit gets a new
    probability.
    """
    chosen = rng.sample([field.name for field in fields(profile)], 2)
    changes = {name: _other(name, getattr(profile, name), rng) for name in chosen}
    return replace(profile, **changes)


def _other(name: str, value: float, rng: Random) -> float:
    if name in HABITS:
        return rng.choice((0.0, 0.1, 0.5, 1.0))
    return rng.choice((value / 2, value * 2, 0.0, 10.0))
