"""Every corruption of an image of the model makes its rule fire, at the right place."""

from functools import cache

import pytest

from nestscope.decoders.audit.audit import RULES, audit
from nestscope.decoders.read_state import read_state
from nestscope.plugin.differential.corruptions.catalogue import CORRUPTIONS, UNREACHABLE
from nestscope.plugin.differential.corruptions.corruption import Corruption, prove
from nestscope.plugin.differential.corruptions.target import ImageTarget
from nestscope.sim.image.profiles import PROFILES

from .scenes import image_target

KINDS = [(shift, family) for family in sorted(PROFILES) for shift in (16, 12)]


@cache
def target_of(kind: tuple[int, str]) -> ImageTarget:
    return image_target(*kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_scene_itself_is_healthy(kind: tuple[int, str]) -> None:
    target = image_target(*kind)
    state = read_state(target.memory, target.kernel, target.source)
    assert audit(state, rc_by_hardware=False) == []
    assert state.problems == ()
    assert sum(len(guest.leaves) for guest in state.vms[0].nested) >= 8


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: each.name)
def test_it_is_noticed(kind: tuple[int, str], corruption: Corruption) -> None:
    if kind[0] not in corruption.page_shifts:
        assert corruption.page_shifts == (16,)
        return
    target = target_of(kind)
    proof = prove(corruption, target)
    assert proof.noticed, f"{proof.place} is not among {proof.new}"
    after = read_state(target.memory, target.kernel, target.source)
    assert audit(after, rc_by_hardware=False) == [], "the bytes were not put back"


def test_big_endian_kernels_are_corrupted_alike() -> None:
    target = image_target(byteorder="big")
    assert all(prove(each, target).noticed for each in CORRUPTIONS)


def test_every_rule_has_a_corruption_or_a_reason_why_not() -> None:
    fired = {each.rule for each in CORRUPTIONS}
    assert fired | set(UNREACHABLE) == {rule.id for rule in RULES}
    assert not fired & set(UNREACHABLE)
    assert len(CORRUPTIONS) >= 25
    assert len({each.name for each in CORRUPTIONS}) == len(CORRUPTIONS)
