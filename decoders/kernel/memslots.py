"""Memslots of a VM: the active set, in either form that kernels keep it in.

Since a54d806688fe ("KVM: Keep memslots in tree-based structures instead of
array-based ones") each address space has two sets; `kvm->memslots[]` points to
the active one, and `node_idx` says which of a slot's two list nodes it uses.
The inactive set shares the rmap arrays, so it is not read. It is read by its
id hash.

Before, `kvm->memslots[]` points to an array of slots, of which the first
`used_slots` are in use.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import prefix
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.record import Path, Record
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.state import Problem

KVM_MEMSLOT_INVALID = 1 << 16
MAX_MEMSLOTS = 32767  # KVM_MEM_SLOTS_NUM


class RawMemslot(NamedTuple):
    """`struct kvm_memory_slot` at `address`; rmap is the address of the array, or None."""

    address: int
    id: int
    base_gfn: int
    npages: int
    userspace_addr: int | None
    flags: int | None
    rmap: int | None


class _Form(Protocol):
    """One of the forms that a kernel keeps its memslots in."""

    def walk(self, memslots: int, path: str, problems: list[Problem]) -> Iterator[RawMemslot]:
        """Yield all slots of the set at `memslots`, also those that do not count."""
        ...


class MemslotReader:
    """Reads the memslots of VMs; the layouts are looked up once."""

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        """Prepare to read with the layouts of `types`.

        Raises:
            UnknownTypeError: if the kernel keeps its memslots in another form.
        """
        in_array = types.has("kvm_memslots", "used_slots")
        self._form: _Form = _Array(types, memory) if in_array else _IdHash(types, memory)

    def read(self, memslots: int, path: str) -> tuple[list[RawMemslot], list[Problem]]:
        """Return the valid slots of the set at `memslots`, by base_gfn, and what is wrong.

        Slots with KVM_MEMSLOT_INVALID are being deleted or moved and are left out.
        """
        problems: list[Problem] = []
        found = [
            slot
            for slot in self._form.walk(memslots, path, problems)
            if slot.npages and not (slot.flags or 0) & KVM_MEMSLOT_INVALID
        ]
        found.sort(key=lambda slot: (slot.base_gfn, slot.id))
        return found, problems


class _IdHash:
    """The set is a hash of lists, each slot on one of them (since a54d806688fe)."""

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        self._memory = memory
        buckets = types.member("kvm_memslots", "id_hash")
        self._buckets_at = buckets.offset
        self._buckets = struct.Struct(
            f"{prefix(memory.byteorder)}{buckets.size // 8}Q"  # each hlist_head is one pointer
        )
        self._node_idx = Record(types, "kvm_memslots", ["node_idx"], memory.byteorder)
        node = types.member("kvm_memory_slot", "id_node")
        self._node_at = (node.offset, node.offset + node.element_size)
        links: list[Path] = ["id_node[0].next", "id_node[1].next"]
        self._slot = _slot_record(types, memory, links)

    def walk(self, memslots: int, path: str, problems: list[Problem]) -> Iterator[RawMemslot]:
        try:
            (node_idx,) = self._node_idx.read_numbers(self._memory, memslots)
            data = self._memory.read(memslots + self._buckets_at, self._buckets.size)
        except UnreadableMemoryError as error:
            problems.append(Problem(path, f"struct kvm_memslots: {error}", memslots))
            return
        if node_idx not in (0, 1):
            problems.append(Problem(path, f"node_idx is {node_idx}, not 0 or 1", memslots))
            return
        seen: set[int] = set()
        for head in self._buckets.unpack(data):
            node = head
            while node:
                slot = node - self._node_at[node_idx]
                if slot in seen or len(seen) >= MAX_MEMSLOTS:
                    why = "is reached a second time" if slot in seen else "is one too many"
                    problems.append(Problem(path, f"kvm_memory_slot {slot:#x} {why}", slot))
                    break
                seen.add(slot)
                try:
                    values = self._slot.read(self._memory, slot)
                except UnreadableMemoryError as error:
                    problems.append(Problem(path, f"struct kvm_memory_slot: {error}", slot))
                    break
                yield _memslot(slot, values[2:])
                node = values[node_idx] or 0


class _Array:
    """The set is an array sorted by base_gfn; `used_slots` says how much of it is in use.

    Until a54d806688fe. Since 36947254e5f9 ("KVM: Dynamically size memslot array
    based on number of used slots") the array ends there.
    """

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        self._memory = memory
        self._used = Record(types, "kvm_memslots", ["used_slots"], memory.byteorder)
        self._first = types.offset("kvm_memslots", "memslots")
        self._slot = _slot_record(types, memory, [])

    def walk(self, memslots: int, path: str, problems: list[Problem]) -> Iterator[RawMemslot]:
        try:
            (used,) = self._used.read_numbers(self._memory, memslots)
        except UnreadableMemoryError as error:
            problems.append(Problem(path, f"struct kvm_memslots: {error}", memslots))
            return
        if not 0 <= used <= MAX_MEMSLOTS:
            problems.append(Problem(path, f"used_slots is {used}, which cannot be", memslots))
            return
        for number in range(used):
            slot = memslots + self._first + number * self._slot.size
            try:
                values = self._slot.read(self._memory, slot)
            except UnreadableMemoryError as error:
                rest = f"struct kvm_memory_slot (the rest is not read): {error}"
                problems.append(Problem(path, rest, slot))
                return
            yield _memslot(slot, values)


def _slot_record(types: Types, memory: KernelMemory, links: list[Path]) -> Record:
    """Read `links` and then what every form of `struct kvm_memory_slot` has."""
    slot = "kvm_memory_slot"
    optional = [types.first(slot, name) for name in ("userspace_addr", "flags", "arch.rmap")]
    paths = [*links, "id", "base_gfn", "npages", *optional]
    return Record(types, slot, paths, memory.byteorder)


def _memslot(address: int, values: list[int | None]) -> RawMemslot:
    number, base_gfn, npages, userspace_addr, flags, rmap = values
    # The first three are members of every kernel, so their Record never has None.
    return RawMemslot(address, number or 0, base_gfn or 0, npages or 0, userspace_addr, flags, rmap)
