"""The model's copy of a live VM: what the kernel's next call should find in memory.

A `VmMirror` holds a `sim.kvm.Kvm` whose words are the real ones: PTEs with the real
page numbers, objects at their real addresses. The model's transitions run on it.
What a kernel call cannot tell (memslots, new nested guests) is adopted from the
kernel's memory; `adopt` says what of it no call accounts for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nestscope.decoders import state as st
from nestscope.decoders.compare import Difference
from nestscope.sim.constants import PMD_SHIFT, PUD_SHIFT
from nestscope.sim.facts import HostFacts
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.kvm import Kvm, Memslot, NestedGuest
from nestscope.sim.rmap import Chain, pack
from nestscope.sim.tree import RadixTree

_SINGLE = 1
_WORD = 8


class RealKvm(Kvm):
    """A VM whose frames are the host's own page numbers."""

    __slots__ = ()

    def mix(self, first: int, second: int, shift: int) -> int:  # noqa: ARG002  the real numbers tell
        """Return what the kernel makes of two page numbers: their OR."""
        return first | second


class RealPages(Mapping[int, int]):
    """Page numbers of a live host: each frame is its own number (`Observations.host_pages`)."""

    def __getitem__(self, frame: int) -> int:
        return frame

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


def tree_of(leaves: st.Leaves, page_shift: int, root: int) -> RadixTree:
    """Return the tree with these leaves; `root` is its root table's address in the kernel."""
    tree = RadixTree(page_shift, root)
    sizes = {page_shift: tree.ptes, PMD_SHIFT: tree.pmd_leaves, PUD_SHIFT: tree.pud_leaves}
    for address, shift, pte in leaves.columns.tolist():
        # A leaf of any other size is in no table of the kernel's own geometry.
        sizes.get(shift, tree.ptes)[address >> shift] = pte
        add_tables(tree, address, shift)
    return tree


def add_tables(tree: RadixTree, address: int, shift: int) -> None:
    """Note the tables above a leaf of `1 << shift` bytes at `address`."""
    tree.pud_tables.add(address >> 39)
    if shift < PUD_SHIFT:
        tree.pmd_tables.add(address >> PUD_SHIFT)
    if shift < PMD_SHIFT:
        tree.pte_tables.add(address >> PMD_SHIFT)


def chain_of(form: str, entries: tuple[st.Entry, ...]) -> Chain:
    """Return a chain in the model's form (`sim.rmap`) from its entries, head first."""
    *nodes, tail = (pack(*entry) for entry in entries)
    if form == "single":
        return tail | _SINGLE
    return [tail | _SINGLE, *reversed(nodes)]


def slot_of(slot: st.Memslot) -> Memslot:
    """Return the model's memslot for one that was read."""
    made = Memslot(
        slot=slot.id,
        base_gfn=slot.base_gfn,
        npages=slot.npages,
        userspace_addr=slot.userspace_addr or 0,
        flags=slot.flags or 0,
        array=slot.rmap_array or 0,
    )
    for chain in slot.rmap:
        if not chain.entries:
            continue  # malformed from its head on: a problem of the State says so
        made.rmap[chain.gfn - slot.base_gfn] = chain_of(chain.form, chain.entries)
    return made


@dataclass
class VmMirror:
    """One VM. `kvm.address` is the real `struct kvm`.

    `departed` are nested guests that the kernel no longer finds by l1_lpid while a
    vCPU may still be in them. `slots_stale`: the kernel has changed the memslots.
    `structs` are addresses of `struct kvm_nested_guest` by that of the root table, 0 where
    it is not known; none after the tree was freed, for then the guest may be another one.
    """

    kvm: Kvm
    departed: list[NestedGuest] = field(default_factory=list)
    slots_stale: bool = False
    structs: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, vm: st.Vm, page_shift: int, release: str | None) -> "VmMirror":
        """Make the mirror of a VM as it was read."""
        facts = HostFacts(page_shift=page_shift, release=release)
        kvm = RealKvm(facts, HostMemory(page_shift))
        kvm.address = vm.kvm
        kvm.lpid = vm.lpid or 0
        kvm.radix = bool(vm.radix)
        kvm.l1_ptcr = vm.l1_ptcr or 0
        kvm.host_pages = RealPages()
        kvm.memslots = [slot_of(slot) for slot in vm.memslots]
        kvm.pgtable = tree_of(vm.host_leaves, page_shift, 0)
        mirror = cls(kvm)
        for guest in vm.nested:
            mirror.add_nested(guest)
        return mirror

    @property
    def path(self) -> str:
        """Where the VM is in a State."""
        return f"vms[kvm={self.kvm.address:#x}]"

    def add_nested(self, guest: st.NestedGuest) -> NestedGuest:
        """Add a nested guest as it was read."""
        tree = tree_of(guest.leaves, self.kvm.page_shift, guest.shadow_pgtable or 0)
        made = NestedGuest(guest.l1_lpid, guest.shadow_lpid or 0, tree)
        made.refcnt = guest.refcnt or 0
        self.structs[tree.root] = guest.address or 0
        self.kvm.nested[guest.l1_lpid] = made
        return made

    def nested_guests(self) -> Iterator[NestedGuest]:
        """Yield all nested guests, those that departed last."""
        yield from self.kvm.nested.values()
        yield from self.departed

    def tree_by_root(self, root: int) -> RadixTree | None:
        """Return the tree whose root table is at `root`, a kernel address."""
        if root == self.kvm.pgtable.root:
            return self.kvm.pgtable
        for guest in self.nested_guests():
            if guest.shadow.root == root:
                return guest.shadow
        return None

    def tree_by_lpid(self, lpid: int) -> RadixTree | None:
        """Return the tree that the hardware uses under `lpid`."""
        if lpid == self.kvm.lpid:
            return self.kvm.pgtable
        for guest in self.nested_guests():
            if guest.shadow_lpid == lpid:
                return guest.shadow
        return None

    def name_of(self, tree: RadixTree) -> str:
        """Return the path of a tree's leaves in a State."""
        if tree is self.kvm.pgtable:
            return f"{self.path}.host_leaves"
        for guest in self.nested_guests():
            if guest.shadow is tree:
                return f"{self.path}.nested[l1_lpid={guest.l1_lpid}].leaves"
        return f"{self.path}.leaves"

    def slot_of_word(self, address: int) -> tuple[Memslot, int] | None:
        """Return the memslot and index of the rmap word at kernel address `address`."""
        for slot in self.kvm.memslots:
            index = (address - slot.rmap_array) // _WORD
            if slot.rmap_array and 0 <= index < slot.npages:
                return slot, index
        return None

    def adopt_slots(self, slots: tuple[st.Memslot, ...]) -> list[Difference]:
        """Take the memslots as they are now; the arrays that are known keep their chains.

        A new array must be empty: `kvmppc_core_prepare_memory_region_hv` makes it with vzalloc().
        """
        known = {slot.rmap_array: slot for slot in self.kvm.memslots}
        found: list[Difference] = []
        made: list[Memslot] = []
        for slot in slots:
            mine = slot_of(slot)
            before = known.get(mine.rmap_array)
            if before is not None:
                mine.rmap = before.rmap
            elif mine.rmap:
                path = f"{self.path}.memslots[id={slot.id}].rmap"
                found.append(Difference(path, "a new array without entries", f"{len(mine.rmap)}"))
            made.append(mine)
        self.kvm.memslots = made
        self.slots_stale = False
        return found

    def adopt_nested(self, guests: tuple[st.NestedGuest, ...]) -> list[Difference]:
        """Take nested guests that were made or dropped since; leaves of new ones are told.

        Only `kvmppc_create_pte` makes leaves, and it is followed: a nested guest that
        nobody has seen yet has none.
        """
        present = {guest.l1_lpid: guest for guest in guests}
        for l1_lpid, known in list(self.kvm.nested.items()):
            now = present.get(l1_lpid)
            if now is None or now.shadow_pgtable != known.shadow.root:
                self.departed.append(self.kvm.nested.pop(l1_lpid))
        found: list[Difference] = []
        for l1_lpid, guest in present.items():
            mine = self.kvm.nested.get(l1_lpid)
            if mine is not None:
                # One that was made anew may have got the root table of the one before.
                mine.shadow_lpid = guest.shadow_lpid or 0
                self.structs[mine.shadow.root] = guest.address or 0
            else:
                made = self.add_nested(guest)
                if len(guest.leaves):
                    path = self.name_of(made.shadow)
                    found.append(
                        Difference(
                            path, "a new nested guest without leaves", f"{len(guest.leaves)}"
                        )
                    )
        return found
