"""The audit on States of the model says what a naive account of the model's objects says.

The account walks the model's own dictionaries with loops and sets: no columns, no masks.
The States are those of random programs, then damaged at random.
"""

from itertools import islice
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.words.pte import PTE_C, PTE_R, PTE_RPN
from nestscope.sim import rmap
from nestscope.sim.generate import random_operations
from nestscope.sim.invariants import violations
from nestscope.sim.kvm import Kvm
from nestscope.sim.layout import LAYOUT

from .world import World

RIGHTS = 7
Broken = set[tuple[str, int | None, int | None]]


def naive(kvm: Kvm) -> Broken:
    """(invariant, l1_lpid, n_gpa) of everything that is broken, by loops."""
    found: Broken = set()
    named: dict[tuple[int, int], list[int]] = {}
    for slot in kvm.memslots:
        for index, chain in slot.rmap.items():
            entries = [rmap.unpack(word) for word in rmap.stored_words(chain)]
            for place, entry in enumerate(entries):
                named.setdefault(tuple(entry), []).append(slot.base_gfn + index)
                if entry in entries[:place] or (entry == (0, 0) and entry != entries[-1]):
                    found.add(("I5", *entry))
                if entry == (0, 0) and place < len(entries) - 1:
                    found.add(("I5", 0, 0))
    for guest in kvm.nested.values():
        for n_gpa, _, pte in guest.shadow.leaves():
            name = (guest.l1_lpid, n_gpa)
            if name not in named:
                found.add(("I1", *name))
                continue
            hosts = [kvm.pgtable.find(gfn << kvm.page_shift) for gfn in named[name]]
            same = [host for host, shift in hosts if host and holds(host, shift, pte & PTE_RPN)]
            if not same:
                found.add(("I2", *name))
            elif all(pte & RIGHTS & ~host for host in same):
                found.add(("I3", *name))
            if same and all(pte & (PTE_R | PTE_C) & ~host for host in same):
                found.add(("I4", *name))
    return found


def holds(host: int, shift: int, page: int) -> bool:
    """Whether the host page of a leaf holds a page."""
    start = host & PTE_RPN & ~((1 << shift) - 1)
    return start <= page < start + (1 << shift)


def judged(world: World) -> Broken:
    found = violations(world.state, rc_by_hardware=False)
    return {(each.rule, each.l1_lpid, each.n_gpa) for each in found if each.rule != "I6"}


@pytest.mark.parametrize("page_shift", [12, 16])
@pytest.mark.parametrize("seed", range(4))
def test_on_random_programs(seed: int, page_shift: int) -> None:
    """Nested guest 0 takes part, so finding 0001 is among them."""
    world = World(start=False, page_shift=page_shift, rc_by_hardware=False)
    seen: set[str] = set()
    for operation in islice(random_operations(seed, LAYOUT), 200):
        world.do(operation)
        if not world.state.vms:
            continue  # the VM was destroyed
        expected = naive(world.model.kvm)
        assert judged(world) == expected
        seen |= {rule for rule, _, _ in expected}
    assert seen <= {"I1", "I5"}


DAMAGES = ("word", "host", "shadow frame", "shadow bits", "host bits", "entry")


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_on_damaged_models(seed: int) -> None:
    random = Random(seed)  # evenly: small numbers are no likelier than others
    world = World(start=False, page_shift=16)
    for operation in islice(random_operations(seed % 50, LAYOUT), 60):
        world.do(operation)
    assume(world.state.vms)
    for _ in range(random.randint(1, 6)):
        hurt(world.model.kvm, random.choice(DAMAGES), random.randrange(1000), random.randrange(60))
    assert judged(world) == naive(world.model.kvm)


def hurt(kvm: Kvm, what: str, which: int, bit: int) -> None:
    """Change one word of the model; what is not there is left alone."""
    slot = kvm.memslots[0]
    trees = [kvm.pgtable] if what.startswith("host") else [g.shadow for g in kvm.nested.values()]
    places = [(tree, key) for tree in trees for key in sorted(tree.ptes)]
    chains = sorted(slot.rmap)
    if what in ("word", "entry"):
        if not chains:
            return
        index = chains[which % len(chains)]
        chain = slot.rmap.pop(index)
        if what == "entry":  # under another gfn, if none is there
            slot.rmap.setdefault((index + 1 + bit) % slot.npages, chain)
    elif places:
        tree, key = places[which % len(places)]
        if what == "host":
            del tree.ptes[key]
        elif what == "shadow frame":
            tree.ptes[key] ^= 1 << 16 + bit % 4
        else:
            tree.ptes[key] ^= (1, 2, 4, 0x80, 0x100)[bit % 5]


def test_the_other_rules_say_nothing_of_a_healthy_model() -> None:
    world = World()
    world.run("map 1 0x1000000 0x900000 64K rwxRC", "store 1 0x1000000 1")
    world.run("map 2 0x1000000 0x900000 64K rwxRC", "load 2 0x1000000")
    assert audit(world.state, rc_by_hardware=False) == []
