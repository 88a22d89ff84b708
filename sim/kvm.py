"""`struct kvm` of the model: one VM with its slots, trees and nested guests."""

from collections.abc import Mapping

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim.constants import (
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
    KVM_USER_MEM_SLOTS,
)
from nestscope.sim.facts import NOTHING_UNUSUAL, HostFacts
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.rmap import Rmap
from nestscope.sim.steps import Mutex, Srcu
from nestscope.sim.tree import RadixTree


class Memslot:
    """`struct kvm_memory_slot`.

    `rmap` is keyed by gfn - base_gfn, empty words have no key; copies of a slot
    share it. `dirty` is the bitmap of the pages that are known to be dirty, None
    while logging is off. `freed`: the array has gone back to `vfree`.
    """

    __slots__ = (
        "base_gfn",
        "dirty",
        "flags",
        "freed",
        "id",
        "npages",
        "rmap",
        "rmap_array",
        "userspace_addr",
    )

    def __init__(
        self, *, slot: int, base_gfn: int, npages: int, userspace_addr: int, flags: int, array: int
    ) -> None:
        self.id = slot
        self.base_gfn = base_gfn
        self.npages = npages
        self.userspace_addr = userspace_addr
        self.flags = flags
        self.rmap_array = array
        self.rmap: Rmap = {}
        self.dirty: set[int] | None = None
        self.freed = False

    def copy(self, *, base_gfn: int, flags: int) -> "Memslot":
        """`kvm_copy_memslot` with another place or other flags; the array stays the same."""
        copy = Memslot(
            slot=self.id,
            base_gfn=base_gfn,
            npages=self.npages,
            userspace_addr=self.userspace_addr,
            flags=flags,
            array=self.rmap_array,
        )
        copy.rmap = self.rmap
        copy.dirty = self.dirty
        return copy

    def is_visible(self) -> bool:
        """`kvm_is_visible_memslot`."""
        return self.id < KVM_USER_MEM_SLOTS and not self.flags & KVM_MEMSLOT_INVALID


class NestedGuest:
    """`struct kvm_nested_guest` (`gp` in the kernel's code)."""

    __slots__ = (
        "l1_gr_to_hr",
        "l1_lpid",
        "process_table",
        "refcnt",
        "released",
        "shadow",
        "shadow_lpid",
        "tlb_lock",
    )

    def __init__(self, l1_lpid: int, shadow_lpid: int, shadow: RadixTree) -> None:
        self.l1_lpid = l1_lpid
        self.shadow_lpid = shadow_lpid
        self.shadow = shadow
        self.l1_gr_to_hr = 0
        self.process_table = 0
        self.refcnt = 0
        self.released = False
        self.tlb_lock = Mutex(f"tlb_lock of {l1_lpid}")


class Kvm:
    """`struct kvm` and `struct kvm_arch`.

    `nested` is `kvm_nested_guest_idr`, `reserved` the keys that are taken in it,
    with or without a nested guest. `running` are the `vcpu->arch.nested` by
    number of the vCPU. `lpids` are the LPIDs in use on the host (`lpid_inuse`).
    `mixed` are frames that stand for the OR of the numbers of others (finding
    0002): frame to those others, ascending. Abstract addresses are handed out by
    `new_address`: never the same one twice. `uses_after_free` says where a path
    used what the kernel had freed: it is a defect of the kernel, not of the run.
    """

    __slots__ = (
        "address",
        "facts",
        "failures",
        "host_pages",
        "l1_ptcr",
        "last_address",
        "lpid",
        "lpids",
        "memory",
        "memslots",
        "mixed",
        "mmu_invalidate_in_progress",
        "mmu_invalidate_seq",
        "mn_active_invalidate_count",
        "moved",
        "nested",
        "page_shift",
        "payload_frame",
        "pgtable",
        "radix",
        "refused",
        "reserved",
        "running",
        "slots_lock",
        "srcu",
        "uses_after_free",
    )

    def __init__(self, facts: HostFacts, memory: HostMemory) -> None:
        self.facts = facts
        self.page_shift = facts.page_shift
        self.last_address = 0
        self.address = self.new_address()
        self.lpids: set[int] = set(range(1, facts.first_lpid))
        self.lpid = self.alloc_lpid()
        self.l1_ptcr = 0
        self.radix = True
        self.mmu_invalidate_seq = 0
        self.mmu_invalidate_in_progress = 0
        self.mn_active_invalidate_count = 0
        self.slots_lock = Mutex("slots_lock")
        self.srcu = Srcu()
        self.memslots: list[Memslot] = []
        self.nested: dict[int, NestedGuest] = {}
        self.reserved: set[int] = set()
        self.running: dict[int, NestedGuest] = {}
        self.pgtable = RadixTree(facts.page_shift, self.new_address())
        self.memory = memory
        self.payload_frame = 0
        self.failures: list[str] = list(NOTHING_UNUSUAL.failures)
        self.host_pages: Mapping[int, int] = NOTHING_UNUSUAL.host_pages
        self.refused = 0
        self.moved: int | None = None
        self.mixed: dict[int, tuple[int, ...]] = {}
        self.uses_after_free: list[str] = []

    def new_address(self) -> int:
        """Return an abstract address for a host object."""
        self.last_address += 0x1_0000
        return self.last_address

    def alloc_lpid(self) -> int:
        """`kvmppc_alloc_lpid`: the lowest free one, from 1."""
        lpid = 1
        while lpid in self.lpids:
            lpid += 1
        self.lpids.add(lpid)
        return lpid

    def free_lpid(self, lpid: int) -> None:
        """`kvmppc_free_lpid`."""
        self.lpids.discard(lpid)

    def gfn_to_memslot(self, gfn: int) -> Memslot | None:
        """Return the slot that holds the absolute frame number `gfn`."""
        for memslot in self.memslots:
            if 0 <= gfn - memslot.base_gfn < memslot.npages:
                return memslot
        return None

    def hva_of(self, memslot: Memslot, gfn: int) -> int:
        """`gfn_to_hva_memslot`."""
        return memslot.userspace_addr + ((gfn - memslot.base_gfn) << self.page_shift)

    def read_guest(self, gpa: int, length: int) -> bytes | None:
        """`kvm_read_guest`: bytes at `gpa`, or None (-EFAULT) outside the slots.

        Reading through the VMM's mapping may map the zero page there.
        """
        memslot = self.gfn_to_memslot(gpa >> self.page_shift)
        if memslot is None or memslot.flags & KVM_MEMSLOT_INVALID:
            return None
        offset = gpa & ((1 << self.page_shift) - 1)
        part = min(length, (1 << self.page_shift) - offset)
        hva = self.hva_of(memslot, gpa >> self.page_shift) + offset
        data = self.memory.read(hva, part)
        if part == length:
            return data
        rest = self.read_guest(gpa + part, length - part)
        return None if rest is None else data + rest

    def writable_hva(self, gpa: int) -> int | None:
        """`gfn_to_hva_prot` with write: the VMM's address of `gpa`, None without one."""
        memslot = self.gfn_to_memslot(gpa >> self.page_shift)
        if memslot is None or memslot.flags & (KVM_MEMSLOT_INVALID | KVM_MEM_READONLY):
            return None
        return self.hva_of(memslot, gpa >> self.page_shift) + (gpa & ((1 << self.page_shift) - 1))

    def mix(self, first: int, second: int, shift: int) -> int:
        """Return the frame that stands for the OR of two page numbers of `1 << shift` bytes."""
        pages = 1 << shift - self.page_shift
        members = self.members(first, second)
        if len(members) == 1:
            return members[0]
        for frame, known in self.mixed.items():
            if known == members and not frame & (pages - 1):
                return frame
        frame = self.memory.fresh_block(shift)
        for i in range(pages):
            self.mixed[frame + i] = self.members(first + i, second + i)
        return frame

    def members(self, first: int, second: int) -> tuple[int, ...]:
        """Return the frames of memory that two frames are made of, without repetition."""
        frames = {m for frame in (first, second) for m in self.mixed.get(frame, (frame,))}
        return tuple(sorted(frames))

    def same_page(self, pte: int, hpa: int, mask: int) -> bool:
        """Whether a leaf and a host address agree in the page number bits of `mask`.

        Of a mixed frame the real numbers count, as far as they were observed: the OR
        of two numbers may be that of a third page.
        """
        if self.mixed:
            left, right = (self.real_number((w & PTE_RPN) >> self.page_shift) for w in (pte, hpa))
            if left is not None and right is not None:
                return not (left ^ right) << self.page_shift & mask
        return not (pte ^ hpa) & mask

    def real_number(self, frame: int) -> int | None:
        """Return the host's own number of an abstract frame, None if it was not observed."""
        number = 0
        for member in self.mixed.get(frame, (frame,)):
            known = self.host_pages.get(member)
            if known is None:
                return None
            number |= known
        return number

    def mark_page_dirty(self, gpa: int) -> None:
        """`mark_page_dirty`: the kernel itself wrote to guest memory."""
        memslot = self.gfn_to_memslot(gpa >> self.page_shift)
        if memslot is not None and memslot.dirty is not None:
            memslot.dirty.add((gpa >> self.page_shift) - memslot.base_gfn)

    def invalidated_since(self, mmu_seq: int) -> bool:
        """`mmu_invalidate_retry`."""
        return self.mmu_invalidate_in_progress > 0 or self.mmu_invalidate_seq != mmu_seq

    def strikes(self, failure: str) -> bool:
        """Whether the next observed failure is this one; it is then used up."""
        if self.failures and self.failures[0] == failure:
            self.failures.pop(0)
            return True
        return False

    def touch(self, nested: NestedGuest, where: str) -> None:
        """Note it if a nested guest is used although it was freed."""
        if nested.released:
            self.uses_after_free.append(f"{where}: nested guest {nested.l1_lpid} was freed before")
