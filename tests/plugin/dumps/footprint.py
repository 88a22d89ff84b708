"""What each object of a State hangs on: the words of memory that lead to it and hold it.

It is worked out structure by structure as the kernel's own code would go from
`vm_list` to the object, apart from the readers of whole States. A word that is not
among them may be anything, and the object must still be listed as before.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import LINEAR_END, LINEAR_START, ROOT_BITS
from nestscope.decoders.radix import ISA, RadixRoot, walk
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import State, Vm
from nestscope.decoders.words.rmap import RMAP_SINGLE

WORD = 8
Words = frozenset[int]
"""Physical addresses of words of 8 bytes, divided by 8."""

Identity = tuple[Hashable, ...]
"""What an object is called in every State: its kind, then what it is found by."""


@dataclass
class Footprints:
    """Objects of one State: what is listed of each, and the words that it hangs on."""

    listed: dict[Identity, Hashable] = field(default_factory=dict)
    words: dict[Identity, Words] = field(default_factory=dict)


def identities(state: State) -> Iterator[tuple[Identity, Hashable]]:
    """Yield every object of a State: its identity, and what is listed of it."""
    for vm in state.vms:
        yield ("vm", vm.kvm), (vm.radix,)
        yield ("lpid", vm.kvm), vm.lpid
        yield ("l1_ptcr", vm.kvm), vm.l1_ptcr
        for leaf in vm.host_leaves:
            yield ("host leaf", vm.kvm, leaf.address), leaf
        for slot in vm.memslots:
            yield ("slot", vm.kvm, slot.id), (slot.base_gfn, slot.npages, slot.rmap_array)
            for chain in slot.rmap:
                yield ("chain", vm.kvm, slot.id, chain.gfn), chain
        for guest in vm.nested:
            where = vm.kvm, guest.l1_lpid
            yield ("nested", *where), guest.shadow_pgtable
            yield ("refcnt", *where), guest.refcnt
            for shadow in guest.leaves:
                yield ("shadow leaf", *where, shadow.address), shadow


class _Tracer:
    """Notes the words on the way to an object."""

    def __init__(self, physical: Memory, kernel: Kernel) -> None:
        self._physical = physical
        self._kernel = kernel
        self._types = kernel.types

    def at(self, address: int, length: int = WORD) -> Words:
        """Return the words at a kernel address, and those that translate it."""
        if LINEAR_START <= address < LINEAR_END:
            start, found = address - LINEAR_START, frozenset[int]()
        else:
            root = RadixRoot(self._kernel.memory.pgd, ROOT_BITS)
            step = walk(self._physical, root, address & (1 << 52) - 1, ISA)
            assert step.leaf is not None
            start = step.leaf.real_address
            found = frozenset(entry.entry_address // WORD for entry in step.steps)
        return found | frozenset(range(start // WORD, (start + length - 1) // WORD + 1))

    def member(self, struct: str, path: str, address: int) -> tuple[int, Words]:
        """Return a member of the structure at `address`, and its words."""
        member = self._types.member(struct, path)
        place = address + member.offset
        data = self._kernel.memory.read(place, member.size)
        return int.from_bytes(data, self._kernel.byteorder), self.at(place, member.size)

    def u64(self, address: int) -> int:
        return self._kernel.memory.u64(address)

    def offset(self, struct: str, path: str) -> int:
        return self._types.offset(struct, path)

    def tree(self, root: int, address: int) -> Words:
        """Return the entries of the tree at kernel address `root` on the way to a leaf."""
        found = walk(self._physical, RadixRoot(root - LINEAR_START, ROOT_BITS), address, ISA)
        assert found.leaf is not None
        return frozenset(step.entry_address // WORD for step in found.steps)


def footprints(state: State, physical: Memory, kernel: Kernel) -> Footprints:
    """Return what the objects of a State of one VM hang on."""
    (vm,) = state.vms
    tracer = _Tracer(physical, kernel)
    found = Footprints(dict(identities(state)))
    head = kernel.symbol("vm_list").address
    words: dict[Identity, Words] = {}
    vm_words = tracer.at(head) | tracer.member("kvm", "arch.radix", vm.kvm)[1]
    words["vm", vm.kvm] = vm_words
    words["lpid", vm.kvm] = tracer.at(head) | tracer.member("kvm", "arch.lpid", vm.kvm)[1]
    words["l1_ptcr", vm.kvm] = tracer.at(head) | tracer.member("kvm", "arch.l1_ptcr", vm.kvm)[1]
    pgtable, pgtable_words = tracer.member("kvm", "arch.pgtable", vm.kvm)
    for leaf in vm.host_leaves:
        identity = ("host leaf", vm.kvm, leaf.address)
        words[identity] = vm_words | pgtable_words | tracer.tree(pgtable, leaf.address)
    words |= dict(_slots(tracer, vm, vm_words))
    words |= dict(_nested(tracer, vm, vm_words))
    assert words.keys() == found.listed.keys()
    found.words = words
    return found


def _slots(tracer: _Tracer, vm: Vm, vm_words: Words) -> Iterator[tuple[Identity, Words]]:
    """Yield what memslots and their chains hang on: their place in the hash of ids."""
    memslots, way = tracer.member("kvm", "memslots[0]", vm.kvm)
    node_idx, idx_words = tracer.member("kvm_memslots", "node_idx", memslots)
    way |= vm_words | idx_words
    by_id = {slot.id: slot for slot in vm.memslots}
    struct = "kvm_memory_slot"
    for bucket in range(128):
        place = memslots + tracer.offset("kvm_memslots", f"id_hash[{bucket}]")
        here = way | tracer.at(place)
        node = tracer.u64(place)
        while node:
            address = node - tracer.offset(struct, f"id_node[{node_idx}]")
            number, words = tracer.member(struct, "id", address)
            for path in ("base_gfn", "npages", "arch.rmap", "flags"):
                words |= tracer.member(struct, path, address)[1]
            slot = by_id[number]
            yield ("slot", vm.kvm, number), here | words
            for chain in slot.rmap:
                place = (slot.rmap_array or 0) + WORD * (chain.gfn - slot.base_gfn)
                entries = tracer.at(place)
                word = tracer.u64(place)
                while not word & RMAP_SINGLE:
                    entries |= tracer.at(word, 2 * WORD)
                    word = tracer.u64(word)
                yield ("chain", vm.kvm, number, chain.gfn), here | words | entries
            here |= tracer.at(node)
            node = tracer.u64(node)


def _nested(tracer: _Tracer, vm: Vm, vm_words: Words) -> Iterator[tuple[Identity, Words]]:
    """Yield what nested guests and their leaves hang on: their place in the IDR."""
    idr = "arch.kvm_nested_guest_idr"
    head, way = tracer.member("kvm", f"{idr}.idr_rt.xa_head", vm.kvm)
    way |= vm_words | tracer.member("kvm", f"{idr}.idr_base", vm.kvm)[1]
    struct = "kvm_nested_guest"
    for guest in vm.nested:
        entry, here = head, way
        while entry & 3 == 2:
            shift, words = tracer.member("xa_node", "shift", entry - 2)
            slot = guest.l1_lpid >> shift & 63
            entry, pointer = tracer.member("xa_node", f"slots[{slot}]", entry - 2)
            here |= words | pointer
        shadow, words = tracer.member(struct, "shadow_pgtable", entry)
        refcnt = tracer.member(struct, "refcnt", entry)[1]
        where = vm.kvm, guest.l1_lpid
        yield ("nested", *where), here | words
        yield ("refcnt", *where), here | refcnt
        for leaf in guest.leaves:
            place = tracer.tree(shadow, leaf.address)
            yield ("shadow leaf", *where, leaf.address), here | words | place
