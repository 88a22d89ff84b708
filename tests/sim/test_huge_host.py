"""What the host does to the memory behind a guest, huge or not: collapse, split, move, protect."""

import pytest

from nestscope.sim.constants import ENOMEM, U64
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.facts import Observations

from .test_huge_pages import NGPA, G, M, world_with


def test_collapse_and_split_keep_the_contents_and_notify() -> None:
    world = world_with(0)
    world.run(f"write {G + 0x10000:#x} 7", f"map 1 {NGPA:#x} {G + 0x10000:#x} 64K rwxRC")
    world.run(f"load 1 {NGPA:#x}", f"collapse {G:#x} 2M")
    assert world.host(G + 0x10000) is None is world.shadow(1, NGPA)
    assert world.run(f"load 1 {NGPA:#x}").value == 7
    assert world.host_shift(G + 0x10000) == 21
    world.run(f"split {G + 0x10000:#x} 2M")
    assert world.shadow(1, NGPA) is None
    assert world.run(f"load 1 {NGPA:#x}").value == 7
    assert world.host_shift(G + 0x10000) == 16


@pytest.mark.parametrize("host", [0, 21])
def test_migration_moves_the_frames_and_takes_the_leaves(host: int) -> None:
    world = world_with(host)
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rwxRC", f"store 1 {NGPA:#x} 7")
    before = world.host(G)
    world.run(f"migrate {G:#x} {M:#x}")
    assert world.host(G) is None is world.shadow(1, NGPA)
    assert world.run(f"load 1 {NGPA:#x}").value == 7
    assert world.host(G) != before
    assert world.host_shift(G) == 16


def test_a_page_of_a_split_huge_page_takes_the_leaves_of_all_when_it_moves() -> None:
    """`soft_offline_page` splits the folio first, and `unmap_folio` unmaps all of it."""
    world = world_with(21)
    other = NGPA + 0x10000
    world.run(f"split {G:#x} 2M")
    for n_gpa, gpa in ((NGPA, G), (other, G + 0x10000)):
        world.run(f"map 1 {n_gpa:#x} {gpa:#x} 64K rwxRC", f"store 1 {n_gpa:#x} 7")
    world.run(f"migrate {G:#x} 0x10000")
    assert world.shadow(1, NGPA) is None is world.shadow(1, other)
    world.run(f"load 1 {NGPA:#x}", f"load 1 {other:#x}")
    world.run(f"migrate {G:#x} 0x10000")
    assert world.shadow(1, NGPA) is None is not world.shadow(1, other)


def test_what_the_host_could_not_move_keeps_its_frame() -> None:
    world = world_with(0)
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rwxRC", f"store 1 {NGPA:#x} 7")
    before = world.host(G)
    world.run(f"migrate {G:#x} 0x10000", observed=Observations(moved=0))
    assert world.host(G) == before
    world.run(f"migrate {G:#x} 0x10000", observed=Observations(moved=1))
    assert world.host(G) is None


def test_a_huge_page_that_the_host_refuses_changes_nothing() -> None:
    world = world_with(0)
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rwxRC", f"store 1 {NGPA:#x} 7")
    leaves = world.host(G), world.shadow(1, NGPA)
    refused = world.run(f"collapse {G:#x} 2M", observed=Observations(refused=ENOMEM))
    assert refused.ret == -ENOMEM & U64
    assert (world.host(G), world.shadow(1, NGPA)) == leaves


def test_protecting_a_page_unmaps_the_2m_around_it() -> None:
    """The VMA is cut inside a block that could hold a huge page (`vma_adjust_trans_huge`)."""
    world = world_with(0)
    other = NGPA + 0x10000
    for n_gpa, gpa in ((NGPA, G), (other, G + 0x10000)):
        world.run(f"map 1 {n_gpa:#x} {gpa:#x} 64K rwxRC", f"store 1 {n_gpa:#x} 7")
    world.run(f"protect {G:#x} 0x10000 ro")
    assert world.shadow(1, NGPA) is None is world.shadow(1, other)
    world.run(f"load 1 {other:#x}", f"protect {G:#x} 0x10000 rw")
    assert world.shadow(1, other) is not None


def test_other_pages_in_the_place_of_these_hold_the_same() -> None:
    world = world_with(0)
    world.run(f"map 1 {NGPA:#x} {G:#x} 64K rwxRC", f"store 1 {NGPA:#x} 7")
    before = world.host(G)
    world.run(f"remap {G:#x} 0x10000")
    assert world.host(G) is None is world.shadow(1, NGPA)
    assert world.run(f"load 1 {NGPA:#x}").value == 7
    assert world.host(G) != before


@pytest.mark.parametrize(
    "line",
    [
        f"collapse {G + 0x10000:#x} 2M",
        f"collapse {G:#x} 64K",
        f"split {G:#x} 2M",
        f"migrate {G:#x} 0x1000",
    ],
)
def test_what_no_host_does_with_huge_pages_is_refused(line: str) -> None:
    world = world_with(30)
    with pytest.raises(UnmodelledError):
        world.run(line)
