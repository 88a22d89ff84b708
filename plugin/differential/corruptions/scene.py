"""A kernel's nested MMU with the places of its words in memory, to be corrupted."""

from dataclasses import replace
from functools import cached_property

from nestscope.decoders.chains import read_chain
from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.memory import ROOT_BITS, TREE_BITS, KernelMemory
from nestscope.decoders.kernel.memslots import MemslotReader, RawMemslot
from nestscope.decoders.kernel.partition import PartitionTableReader
from nestscope.decoders.kernel.vcpus import VcpuReader
from nestscope.decoders.kernel.vms import RawVm, VmReader
from nestscope.decoders.read_state import read_state
from nestscope.decoders.state import Leaf, Memslot, NestedGuest, State, Vm
from nestscope.decoders.words.pde import next_bits, next_table
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT
from nestscope.plugin.differential.corruptions.target import PatchedMemory, Target

SCENE = """
nestscope-trace 1
ptcr {ptcr:#x}
write 0x900000 1
write 0x910000 1
write 0x920000 1
map 1 0x1000000 0x900000 64K rwxRC
map 2 0x1000000 0x900000 64K rwxRC
map 3 0x1000000 0x900000 64K rwxRC
store 1 0x1000000 0x11
store 2 0x1000000 0x12
store 3 0x1000000 0x13
map 1 0x2000000 0x910000 64K rwxRC
store 1 0x2000000 0x21
map 2 0x4000000 0x920000 64K rwxRC
store 2 0x4000000 0x31
"""
"""Operations after which every corruption finds what it needs: a chain of three entries,
single ones, three nested guests. Format with `ptcr`."""


class SceneError(NestscopeError):
    """The State does not have what a corruption needs."""


class Mapping:
    """A page that nested guest `guest` maps with the shadow leaf `leaf`; its entry is in `gfn`.

    `page`: host real address of the page.
    """

    def __init__(self, guest: NestedGuest, leaf: Leaf, gfn: int, page: int) -> None:
        self.guest = guest
        self.leaf = leaf
        self.gfn = gfn
        self.page = page

    @property
    def l1_lpid(self) -> int:
        """The guest's name for the nested guest."""
        return self.guest.l1_lpid

    @property
    def n_gpa(self) -> int:
        """Nested real address that the leaf maps."""
        return self.leaf.address

    @property
    def entry(self) -> int:
        """The packed entry, bit 0 clear."""
        return self.l1_lpid << RMAP_LPID_SHIFT | self.n_gpa


class Scene:
    """One VM of a target. Changes are gathered in `patches` and seen by what reads later."""

    def __init__(self, target: Target) -> None:
        """Read the State.

        Raises:
            SceneError: if there is no VM with a memslot.
        """
        self._patched = PatchedMemory(target.memory)
        kernel = target.kernel
        self.kernel = replace(
            kernel, memory=KernelMemory(self._patched, kernel.memory.pgd, kernel.byteorder)
        )
        self.types = kernel.types
        self.memory = self.kernel.memory
        self._target = target
        self.state: State = read_state(target.memory, kernel, target.source)
        if not self.state.vms or not self.state.vms[0].memslots:
            raise SceneError("there is no VM with a memslot")
        self.vm: Vm = self.state.vms[0]
        self.memslot: Memslot = self.vm.memslots[0]
        self.page_shift = kernel.page_shift

    @property
    def patches(self) -> dict[int, bytes]:
        """What is to be written: bytes by physical address."""
        return self._patched.patches

    # What there is.

    def mappings(self, gfn: int) -> list[Mapping]:
        """Return the entries of a chain, head first, each with its shadow leaf.

        Raises:
            SceneError: if an entry is stale.
        """
        chain = self.memslot.rmap.of(gfn)
        found = []
        for entry in chain.entries if chain else ():
            guest = next((g for g in self.vm.nested if g.l1_lpid == entry.l1_lpid), None)
            leaf = None if guest is None else guest.leaves.covering(entry.n_gpa)
            if guest is None or leaf is None:
                raise SceneError(f"the chain of gfn {gfn:#x} has a stale entry")
            page = leaf.pte & PTE_RPN & ~((1 << self.page_shift) - 1)
            found.append(Mapping(guest, leaf, gfn, page))
        return found

    def single(self) -> Mapping:
        """Return a mapping that is the only entry of its chain."""
        return self._singles[0]

    def other_single(self) -> Mapping:
        """Return another one, of another nested guest."""
        first = self._singles[0]
        return next(each for each in self._singles if each.l1_lpid != first.l1_lpid)

    @cached_property
    def _singles(self) -> list[Mapping]:
        found = [self.mappings(chain.gfn) for chain in self.memslot.rmap if chain.form == "single"]
        if len({each[0].l1_lpid for each in found}) < 2:
            raise SceneError("there are no two single entries of different nested guests")
        return [each[0] for each in found]

    @cached_property
    def several(self) -> list[Mapping]:
        """The mappings of one chain of three entries at least, head first, none at address 0."""
        for chain in self.memslot.rmap:
            if len(chain.entries) >= 3 and all(entry.n_gpa for entry in chain.entries):
                return self.mappings(chain.gfn)
        raise SceneError("there is no chain of three entries")

    def empty_gfn(self, *, mapped: bool) -> int:
        """Return a gfn without entries that has a host leaf, or has none."""
        for at in range(self.memslot.npages):
            gfn = self.memslot.base_gfn + at
            host = self.vm.host_leaves.covering(gfn << self.page_shift)
            if self.memslot.rmap.of(gfn) is None and (host is not None) == mapped:
                return gfn
        raise SceneError("there is no such gfn")

    def host_leaf(self, gfn: int) -> Leaf:
        """Return the host leaf of a gfn."""
        leaf = self.vm.host_leaves.covering(gfn << self.page_shift)
        if leaf is None:
            raise SceneError(f"there is no host leaf for gfn {gfn:#x}")
        return leaf

    def free_page(self) -> int:
        """Return the host real address of a page that no host leaf of the VM maps."""
        used = {leaf.pte & PTE_RPN for leaf in self.vm.host_leaves}
        page = 1 << self.page_shift
        return next(at for at in range(page << 8, page << 20, page) if at not in used)

    # Where it is. Kernel addresses, unless it says physical.

    def word(self, gfn: int) -> int:
        """Return the address of a gfn's rmap word."""
        return (self.memslot.rmap_array or 0) + 8 * (gfn - self.memslot.base_gfn)

    def nodes(self, gfn: int) -> tuple[int, ...]:
        """Return the addresses of the list nodes of a chain."""
        word = self.memory.u64(self.word(gfn))
        return read_chain(self.memory, word, self.kernel.byteorder).nodes

    def entry_of(self, root: int, address: int, shift: int) -> int:
        """Return the physical address of the table entry at level `shift` that maps `address`.

        Raises:
            SceneError: if the tree does not reach there.
        """
        table, bits, here = self.memory.translate(root), ROOT_BITS, TREE_BITS
        while True:
            here -= bits
            place = table + 8 * (address >> here & (1 << bits) - 1)
            if here == shift:
                return place
            word = int.from_bytes(self._patched.read(place, 8), "big")
            if here < shift or not word >> 63 or word >> 62 & 1:
                raise SceneError(f"the tree has no level of shift {shift} at {address:#x}")
            table, bits = next_table(word), next_bits(word)

    def pde(self, physical: int) -> int:
        """Return the word of a table at a physical address."""
        return int.from_bytes(self._patched.read(physical, 8), "big")

    @property
    def pgtable(self) -> int:
        """The root of the host tree."""
        return self._raw.pgtable or 0

    @cached_property
    def _vms(self) -> VmReader:
        return VmReader(self.types, self.memory)

    @cached_property
    def _raw(self) -> RawVm:
        return self._vms.vm(self.vm.kvm)

    def raw_memslot(self) -> RawMemslot:
        """Return the `struct kvm_memory_slot` of the memslot."""
        slots, _ = MemslotReader(self.types, self.memory).read(self._raw.memslots or 0, "")
        return next(slot for slot in slots if slot.id == self.memslot.id)

    def vcpu(self) -> int:
        """Return the address of a `struct kvm_vcpu`."""
        found = VcpuReader(self.types, self.memory).vcpus(self.vm.kvm)
        if not found:
            raise SceneError("the VM has no vCPU")
        return found[0]

    def partition_entry(self, lpid: int) -> int:
        """Return the address of the partition table entry of an LPID."""
        where = PartitionTableReader(self.kernel, self.memory).place(lpid)
        if where is None:
            raise SceneError("it is not known where the partition table is")
        return where

    # How it is changed.

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at a kernel address."""
        self.patches[self.memory.translate(address)] = data

    def u64(self, address: int, value: int) -> None:
        """Write a doubleword at a kernel address, in the kernel's byte order."""
        self.write(address, value.to_bytes(8, self.kernel.byteorder))

    def big(self, physical: int, value: int) -> None:
        """Write a doubleword of a table at a physical address: those are big-endian."""
        self.patches[physical] = value.to_bytes(8, "big")

    def member(self, struct: str, address: int, path: str, value: int) -> None:
        """Write a member of the structure at a kernel address."""
        layout = self.types.member(struct, path)
        data = (value % (1 << 8 * layout.size)).to_bytes(layout.size, self.kernel.byteorder)
        self.write(address + layout.offset, data)

    def shadow(self, mapping: Mapping, pte: int) -> None:
        """Replace the shadow leaf of a mapping."""
        root = mapping.guest.shadow_pgtable or 0
        self.big(self.entry_of(root, mapping.n_gpa, mapping.leaf.shift), pte)

    def host(self, leaf: Leaf, pte: int) -> None:
        """Replace a host leaf."""
        self.big(self.entry_of(self.pgtable, leaf.address, leaf.shift), pte)
