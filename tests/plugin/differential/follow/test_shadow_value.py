"""A shadow leaf holds no more than host and guest give, and its entry is where it belongs."""

from typing import cast

import pytest

from nestscope.decoders.words.pte import PTE_C, PTE_EAA_WRITE, PTE_R
from nestscope.plugin.differential.follow.shadow_value import check_value
from nestscope.sim.rmap import pack
from tests.sim.world import World

from .double import ModelObserver, mirrored

GPA = 0x90_0000
GFN = GPA >> 16
N_GPA = 0x100_0000


class Made:
    """Nested guest 1 has GPA at N_GPA, for reading and writing."""

    def __init__(self) -> None:
        world = World()
        world.run(f"map 1 {N_GPA:#x} {GPA:#x} 64K rwxRC", f"store 1 {N_GPA:#x} 1")
        self.vm, self.checker = mirrored(world)
        self.tree = self.vm.kvm.nested[1].shadow
        self.pte = self.tree.find(N_GPA)[0]

    def guest(self, pte: int, gpa: int = GPA) -> None:
        """Let the guest's own leaf be this one."""
        cast(ModelObserver, self.checker.observer).guest[N_GPA] = pte, gpa

    def told(self, pte: int, gfn: int = GFN) -> list[str]:
        entry = self.vm.kvm.memslots[0], gfn, pack(1, N_GPA)
        leaf = N_GPA, 16, pte
        found = check_value(self.vm, self.checker, self.tree, leaf, entry)
        return [difference.expected for difference in found]


@pytest.fixture
def made() -> Made:
    return Made()


def test_what_the_kernel_made_is_right_with_and_without_the_guests_leaf(made: Made) -> None:
    assert made.told(made.pte) == []
    assert made.checker.tally.guest_leaves == 0
    made.guest(made.pte)
    assert made.told(made.pte) == []
    assert made.checker.tally.guest_leaves == 1


def test_another_host_page_is_told(made: Made) -> None:
    (told,) = made.told(made.pte ^ 1 << 16)
    assert told.startswith("a page of the host's 0x")


def test_a_right_that_the_host_has_not_is_told(made: Made) -> None:
    tree = made.vm.kvm.pgtable
    tree.change(GPA, 0, tree.find(GPA)[0] & ~PTE_EAA_WRITE)
    (told,) = made.told(made.pte)
    assert told.startswith("no right beyond the host's")


@pytest.mark.parametrize("bit", [PTE_EAA_WRITE, PTE_R, PTE_C])
def test_a_bit_that_the_guest_has_not_is_told(made: Made, bit: int) -> None:
    made.guest(made.pte & ~bit)
    (told,) = made.told(made.pte | bit)
    assert told.startswith("no bit beyond the guest's")
    assert made.told(made.pte & ~bit) == []


def test_an_entry_of_another_gfn_than_the_guest_maps_is_told(made: Made) -> None:
    made.guest(made.pte, GPA + 0x1_0000)
    (told,) = made.told(made.pte)
    assert told.startswith(f"an entry of gfn {GFN + 1:#x}")


def test_a_leaf_whose_entry_has_no_host_leaf_is_told(made: Made) -> None:
    (told,) = made.told(made.pte, gfn=GFN + 7)
    assert told.startswith("a host leaf at 0x970000")


def test_inside_a_huge_host_page_the_part_that_the_guest_maps_is_wanted(made: Made) -> None:
    tree, gpa = made.vm.kvm.pgtable, 0x100_0000
    host = made.pte & ~((1 << 25) - 1) | made.pte & 0x1FF
    tree.change(gpa, 21, host)
    made.guest(made.pte, gpa + 0x3_0000)
    assert made.told(host | 0x3_0000, gfn=gpa >> 16) == []
    (told,) = made.told(host | 0x4_0000, gfn=gpa >> 16)
    assert told == "the part of the host's page at 0x1030000"
