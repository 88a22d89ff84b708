"""A model that stands for the kernel: the observer reads it, the mirror is another one."""

from typing import cast

from nestscope.plugin.differential.follow.checks import Checker
from nestscope.plugin.differential.follow.mirror import VmMirror
from nestscope.plugin.differential.follow.observe import Observer
from nestscope.sim.kvm import Memslot
from nestscope.sim.rmap import Chain
from nestscope.sim.tree import RadixTree
from tests.sim.world import World

SEQUENCE = 7


class ModelObserver:
    """What `Observer` reads, from a model's VM."""

    def __init__(self, world: World) -> None:
        self.kvm = world.model.kvm
        self.guest: dict[int, tuple[int, int]] = {}

    def tree(self, root: int) -> RadixTree:
        trees = [self.kvm.pgtable, *(guest.shadow for guest in self.kvm.nested.values())]
        return next(tree for tree in trees if tree.root == root)

    def slot(self, address: int) -> tuple[Memslot, int]:
        for slot in self.kvm.memslots:
            index = (address - slot.rmap_array) // 8
            if 0 <= index < slot.npages:
                return slot, index
        raise AssertionError(hex(address))

    def leaf(self, tree: RadixTree, address: int) -> tuple[int, int, int]:
        pte, shift = self.tree(tree.root).find(address)
        return pte, shift, place_of(tree, address) if pte else 0

    def chain(self, address: int) -> tuple[Chain | None, str | None]:
        slot, index = self.slot(address)
        chain = slot.rmap.get(index)
        return (list(chain) if isinstance(chain, list) else chain), None

    def used_words(self, array: int, first: int, count: int) -> set[int]:
        slot, _ = self.slot(array)
        return {index for index in slot.rmap if first <= index < first + count}

    def guest_leaf(self, _vm: VmMirror, _tree: RadixTree, n_gpa: int) -> tuple[int, int] | None:
        return self.guest.get(n_gpa)

    def is_empty(self, tree: RadixTree) -> bool:
        return not list(self.tree(tree.root).leaves())

    def members(self, kvm: int) -> tuple[int, int, int | None]:
        assert kvm == self.kvm.address
        return self.kvm.pgtable.root, self.kvm.l1_ptcr, SEQUENCE


def place_of(tree: RadixTree, address: int) -> int:
    """A physical address of its own for each PTE of a tree."""
    return tree.root << 52 | address >> tree.page_shift << 3


def mirrored(world: World) -> tuple[VmMirror, Checker]:
    """A mirror of the world's VM as it is now, and what compares the two."""
    (vm,) = world.state.vms
    mirror = VmMirror.of(vm, world.model.facts.page_shift, None)
    mirror.kvm.pgtable.root = world.model.kvm.pgtable.root
    return mirror, Checker(cast(Observer, ModelObserver(world)))
