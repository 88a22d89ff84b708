"""The MMU notifier takes pages back: transition 18. On a host with 64K pages."""

from nestscope.sim.steps import drain

from .test_transitions import G, N, mapped, shadows
from .world import World


def test_18_a_discarded_page_takes_every_shadow_leaf_and_the_chain() -> None:
    world = mapped(2, (1, 2, 3))
    world.run(f"discard {G:#x} 0x10000")
    assert world.host(G) is None
    assert world.chain(G) is None
    assert [shadows(world, lpid, 2) for lpid in (1, 2, 3)] == [[False, True]] * 3
    assert world.chain(G + 0x10000) == ("list", tuple((n, N + 0x10000) for n in (3, 2, 1)))


def test_18_a_discarded_page_reads_as_zero_afterwards() -> None:
    world = mapped(1)
    world.run(f"store 1 {N:#x} 9", f"discard {G:#x} 0x10000")
    assert world.run(f"load 1 {N:#x}").value == 0


def test_18_a_page_without_a_host_leaf_keeps_its_chain() -> None:
    world = mapped(1)
    kvm = world.model.kvm
    kvm.pgtable.change(G, 0, 0)  # what no correct host does: it breaks I2
    world.run(f"discard {G:#x} 0x10000")
    assert world.chain(G) == ("single", ((1, N),))


def test_18_a_stale_entry_does_not_cost_a_leaf_of_another_page() -> None:
    world = mapped(1)
    world.run(f"write {G:#x} 1", f"write {G + 0x10000:#x} 1", f"load 1 {N:#x}")
    world.run(f"unmap 1 {N:#x}", "tlbie ric=0 prs=0 r=1 is=0 lpid=1 ap=5 epn=0x1000")
    world.run(f"map 1 {N:#x} {G + 0x10000:#x} 64K rwxRC", f"load 1 {N:#x}")
    world.run(f"discard {G:#x} 0x10000")
    assert world.chain(G) is None
    assert world.shadow(1, N) is not None


def test_18_copying_the_zero_page_empties_the_chain_of_all_who_read_it() -> None:
    world = mapped(1, (1, 2))
    world.run(f"write {G:#x} 3")
    assert world.chain(G) is None
    assert world.host(G) is None
    assert world.shadow(1, N) is None is world.shadow(2, N)
    assert world.run(f"load 1 {N:#x}").value == 3


def test_18_an_entry_behind_the_zero_word_survives_the_discard() -> None:
    """A defect of the kernel: the walk stops at (l1_lpid 0, n_gpa 0) inside a list."""
    world = World()
    world.run(f"map 1 {N:#x} 0x800000 64K rxRC", "code 0x900000", "map 1 0x2000000 0x900000 64K rx")
    world.run("fetch 1 0x2000000", "map 0 0x2000000 0x900000 64K rx", "fetch 0 0x2000000")
    world.run("map 2 0x2000000 0x900000 64K rx", "fetch 2 0x2000000")
    assert world.chain(0x80_0000) == ("list", ((2, 0), (0, 0), (1, 0)))
    kvm = world.model.kvm
    drain(kvm.memory.discard(kvm.memslots[0].userspace_addr + 0x80_0000, 0x10000))
    assert world.chain(0x80_0000) is None
    assert [world.shadow(lpid, 0) is not None for lpid in (0, 1, 2)] == [True, True, False]


def test_18_a_discard_of_part_of_a_page_takes_the_page() -> None:
    world = mapped(1)
    world.run(f"discard {G:#x} 0x1000")
    assert world.shadow(1, N) is None
