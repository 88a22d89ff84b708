"""hugetlbfs memory: which faults bring its pages, and what is refused because it is not cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.sim.constants import EINVAL, U64
from nestscope.sim.events import MapHugetlb, Protect
from nestscope.sim.facts import Observations
from nestscope.sim.fork import fork
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.steps import drain

from .test_hostmm import Listener
from .test_thp import BLOCK, START
from .world import World

PAGE = 1 << 16
FIRST = START >> 16
GPA = 0xA00000
HVA_BLOCKS = 4


def hugetlb(blocks: int = 2) -> tuple[HostMemory, Listener]:
    """Memory of four blocks, of which the first ones are hugetlbfs."""
    memory = HostMemory(16)
    memory.vmas.map(START, START + HVA_BLOCKS * BLOCK)
    assert drain(memory.map_hugetlb(START, blocks * BLOCK, 21)) == 0
    memory.notifier = listener = Listener(memory)
    return memory, listener


def test_a_write_brings_a_whole_page_and_tells_nobody() -> None:
    memory, told = hugetlb()
    drain(memory.write(START + 3 * PAGE, b"a"))
    assert memory.private_frame(FIRST) and memory.find(FIRST)[1] == 21
    assert memory.find(FIRST + 32) == (0, 0)
    assert told.calls == []


def test_a_read_brings_one_that_is_read_only_until_the_first_write() -> None:
    memory, told = hugetlb()
    assert memory.read(START, 2) == b"\0\0"
    frame, shift = memory.find(FIRST)
    assert (shift, memory.private_frame(FIRST)) == (21, 0)
    assert frame != ZERO_FRAME
    drain(memory.write(START + PAGE, b"a"))
    assert memory.private_frame(FIRST) == frame
    assert told.calls == []


def test_what_was_there_before_is_gone_and_the_notifier_told() -> None:
    memory = HostMemory(16)
    memory.vmas.map(START, START + BLOCK)
    drain(memory.write(START, b"a"))
    memory.notifier = told = Listener(memory)
    drain(memory.map_hugetlb(START, BLOCK, 21))
    assert told.calls == [(START, START + BLOCK)]
    assert memory.read(START, 1) == b"\0"
    assert memory.find(FIRST)[1] == 21


def test_mprotect_never_makes_it_writable_again() -> None:
    memory, _ = hugetlb()
    drain(memory.write(START, b"a"))
    for writable in (False, True):
        assert drain(memory.protect(START, BLOCK, writable=writable)) == 0
    assert memory.private_frame(FIRST) == 0
    drain(memory.write(START, b"b"))
    assert memory.private_frame(FIRST)


def test_after_a_fork_it_is_taken_as_a_whole() -> None:
    memory, told = hugetlb()
    drain(memory.write(START, b"a"))
    frame = memory.find(FIRST)[0]
    drain(fork(memory))
    told.calls.clear()
    assert memory.private_frame(FIRST) == 0
    drain(memory.write(START + PAGE, b"b"))
    assert (memory.private_frame(FIRST), told.calls) == (frame, [])


def test_only_whole_pages_are_discarded() -> None:
    memory, told = hugetlb()
    drain(memory.write(START, b"a"))
    drain(memory.write(START + BLOCK, b"b"))
    assert drain(memory.advise_discard(START + PAGE, BLOCK)) == -EINVAL
    assert drain(memory.advise_discard(START, BLOCK - PAGE)) == 0
    assert told.calls == []
    assert drain(memory.advise_discard(START, BLOCK + 5 * PAGE)) == 0
    assert told.calls == [(START, START + BLOCK)]
    assert memory.find(FIRST) == (0, 0)
    assert memory.read(START + BLOCK, 1) == b"b"


def test_a_page_moves_as_a_whole_and_only_if_it_was_moved() -> None:
    memory, told = hugetlb()
    drain(memory.write(START, b"a"))
    frame = memory.find(FIRST)[0]
    drain(memory.migrate(START + PAGE, PAGE, moved=0))
    assert (memory.find(FIRST)[0], told.calls) == (frame, [])
    drain(memory.migrate(START + PAGE, PAGE, moved=1))
    assert memory.find(FIRST)[0] != frame
    assert told.calls == [(START, START + BLOCK)]
    assert memory.read(START, 1) == b"a"


@pytest.mark.parametrize("start", [START + PAGE, START + BLOCK + PAGE])
def test_it_is_not_cut(start: int) -> None:
    memory, told = hugetlb()
    before = list(memory.vmas.vmas)
    assert drain(memory.protect(start, PAGE, writable=False)) == -EINVAL
    assert drain(memory.advise_huge(start, PAGE, on=True)) == -EINVAL
    assert drain(memory.remap(start, PAGE)) == -EINVAL
    assert drain(memory.map_hugetlb(start, BLOCK, 21)) == -EINVAL
    assert memory.vmas.vmas == before
    assert told.calls == []


def test_what_is_so_already_is_not_refused() -> None:
    """`mprotect_fixup` passes over a VMA before it would cut it."""
    memory, _ = hugetlb()
    assert drain(memory.protect(START + PAGE, PAGE, writable=True)) == 0
    assert drain(memory.advise_huge(START + PAGE, PAGE, on=False)) == 0


def test_huge_pages_by_advice_do_not_come_there() -> None:
    memory, _ = hugetlb(1)
    drain(memory.advise_huge(START, 2 * BLOCK, on=True))
    drain(memory.write(START, b"a"))
    drain(memory.write(START + BLOCK, b"a"))
    assert memory.vmas.has_hugetlb(START, START + BLOCK)
    assert not memory.vmas.has_hugetlb(START + BLOCK, START + 2 * BLOCK)
    assert memory.find(FIRST + 32)[1] == 21
    assert not memory.vmas.allows_huge(START) and memory.vmas.allows_huge(START + BLOCK)


def test_a_slot_over_it_has_leaves_of_2m() -> None:
    world = World()
    world.run(f"hugetlb {GPA:#x} 0x200000 2M", "map 1 0x40000000 0xa00000 2M rwxRC")
    assert world.run("load 1 0x40000000").value == 0
    assert world.shadow_flags(1, 0x40000000) == 0x105, "read-only, after a read"
    world.run("store 1 0x40010000 0x1")
    leaf = world.vm.host_leaves.covering(GPA + PAGE)
    assert leaf is not None and leaf.shift == 21
    assert world.run("load 1 0x40010000").value == 1


def test_the_guest_hears_what_the_kernel_refuses() -> None:
    world = World()
    refused = -EINVAL & U64
    assert world.run(f"hugetlb {GPA + PAGE:#x} 0x200000 2M").ret == refused
    assert world.run(f"hugetlb {GPA:#x} 0x10000 2M").ret == refused
    assert world.run(f"hugetlb {GPA:#x} 0x200000 64K").ret == refused
    world.run(f"hugetlb {GPA:#x} 0x200000 2M")
    assert world.run(f"protect {GPA + PAGE:#x} 0x10000 ro").ret == refused
    assert world.run(f"discard {GPA + PAGE:#x} 0x10000").ret == refused
    assert world.run(f"discard {GPA:#x} 0x10000").ret == 0


def test_reclaim_does_not_take_it() -> None:
    world = World(ages_by_reclaim=True)
    world.run(f"hugetlb {GPA:#x} 0x200000 2M", f"write {GPA:#x} 0x1")
    assert world.run(f"age {GPA:#x} 0x10000").ret == -EINVAL & U64


def test_a_host_without_such_pages_changes_nothing() -> None:
    world = World()
    world.run(f"write {GPA:#x} 0x1")
    world.do(MapHugetlb(GPA, 0x200000), Observations(refused=22))
    world.do(Protect(GPA, PAGE, writable=False))
    assert not world.model.kvm.memory.vmas.has_hugetlb(0, U64)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "protect", "migrate", "fork", "discard", "hugetlb"]),
        st.integers(0, 60),
        st.integers(1, 40),
    ),
    max_size=12,
)


@given(STEPS)
def test_its_pages_are_always_whole(steps: list[tuple[str, int, int]]) -> None:
    """No base page is ever mapped in hugetlbfs memory, whatever is done to ranges of it."""
    memory, _ = hugetlb()
    for action, first, count in steps:
        at, length = START + first * PAGE, count * PAGE
        match action:
            case "read":
                memory.read(at, 1)
            case "write":
                drain(memory.write(at, b"x"))
            case "protect":
                inside = at & -BLOCK
                drain(memory.protect(inside, BLOCK, writable=False))
                drain(memory.protect(inside, BLOCK, writable=True))
            case "migrate":
                drain(memory.migrate(at, length))
            case "fork":
                drain(fork(memory))
            case "discard":
                drain(memory.advise_discard(at, length))
            case "hugetlb":
                drain(memory.map_hugetlb(at & -BLOCK, BLOCK, 21))
        for page in memory.pages:
            assert not memory.vmas.has_hugetlb(page << 16, page + 1 << 16)
