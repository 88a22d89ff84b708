"""Rules about host leaves, against a loop over memslots and leaves."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.state import Chains, Memslot
from tests.sim.states import RWXRC, slot, state, vm

PAGE_SHIFT = 16

slots = st.lists(
    st.builds(
        lambda first, npages, flags: replace(
            slot(), base_gfn=first, npages=npages, flags=flags, rmap=Chains()
        ),
        st.integers(0, 160),
        st.integers(1, 160),
        st.sampled_from((0, 1, 2, 3, None)),
    ),
    max_size=5,
)
leaves = st.sets(st.integers(0, 9), max_size=6).flatmap(
    lambda blocks: st.tuples(
        *(
            st.sampled_from((16, 21)).map(lambda shift, at=block << 21: (at, shift, RWXRC | at))
            for block in sorted(blocks)
        )
    )
)


def logging(first: int, npages: int) -> Memslot:
    return replace(slot(), base_gfn=first, npages=npages, flags=1)


# Damaged: the second memslot is inside the first, which the leaf begins in.
@example([logging(0, 160), logging(8, 8)], [(1 << 21, 21, RWXRC | 1 << 21)])
@given(slots, leaves)
def test_a_huge_leaf_that_begins_in_a_logging_memslot_is_told(memslots, host) -> None:
    known = state(vm(host=host, memslots=memslots))
    told = {each.gfn for each in audit(known) if each.rule == "host.huge-while-logging"}
    assert told == {
        address >> PAGE_SHIFT
        for address, shift, _ in host
        if shift > PAGE_SHIFT
        and any(
            (each.flags or 0) & 1
            and each.base_gfn <= address >> PAGE_SHIFT < each.base_gfn + each.npages
            for each in memslots
        )
    }


@given(slots, leaves)
@example(
    [
        replace(slot(), npages=100, rmap=Chains()),
        replace(slot(), base_gfn=1, npages=1, rmap=Chains()),
    ],
    ((1 << 21, 21, RWXRC),),
)
def test_a_leaf_that_no_memslot_holds_whole_is_told(
    memslots: list[Memslot], host: tuple[tuple[int, int, int], ...]
) -> None:
    known = state(vm(host=host, memslots=memslots))
    told = {each.gfn for each in audit(known) if each.rule == "host.outside-memslot"}
    assert told == {
        at >> PAGE_SHIFT
        for at, shift, _ in host
        if not any(
            memslot.base_gfn << PAGE_SHIFT <= at
            and at + (1 << shift) <= memslot.base_gfn + memslot.npages << PAGE_SHIFT
            for memslot in memslots
        )
    }
