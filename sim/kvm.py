"""`struct kvm` of the model: one VM with its slots, trees and nested guests."""

from nestscope.sim.constants import KVM_MEMSLOT_INVALID, KVM_USER_MEM_SLOTS
from nestscope.sim.facts import NOTHING_UNUSUAL, HostFacts
from nestscope.sim.hostmm import HostMemory
from nestscope.sim.rmap import Rmap
from nestscope.sim.tree import RadixTree


class Memslot:
    """`struct kvm_memory_slot`; `rmap` is keyed by gfn - base_gfn, empty words have no key."""

    __slots__ = ("base_gfn", "flags", "id", "npages", "rmap", "rmap_array", "userspace_addr")

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
    )

    def __init__(self, l1_lpid: int, shadow_lpid: int, shadow: RadixTree) -> None:
        self.l1_lpid = l1_lpid
        self.shadow_lpid = shadow_lpid
        self.shadow = shadow
        self.l1_gr_to_hr = 0
        self.process_table = 0
        self.refcnt = 0
        self.released = False


class Kvm:
    """`struct kvm` and `struct kvm_arch`.

    `nested` is `kvm_nested_guest_idr`. `lpids` are the LPIDs in use on the host
    (`lpid_inuse`). `payload_frame` is the host page with the payload's code,
    whose bytes the model does not know. Abstract addresses are handed out by `new_address`: never
    the same one twice.
    """

    __slots__ = (
        "address",
        "facts",
        "failures",
        "l1_ptcr",
        "last_address",
        "lpid",
        "lpids",
        "memory",
        "memslots",
        "mmu_invalidate_seq",
        "nested",
        "page_shift",
        "payload_frame",
        "pgtable",
    )

    def __init__(self, facts: HostFacts) -> None:
        self.facts = facts
        self.page_shift = facts.page_shift
        self.last_address = 0
        self.address = self.new_address()
        self.lpids: set[int] = set(range(1, facts.first_lpid))
        self.lpid = self.alloc_lpid()
        self.l1_ptcr = 0
        self.mmu_invalidate_seq = 0
        self.memslots: list[Memslot] = []
        self.nested: dict[int, NestedGuest] = {}
        self.pgtable = RadixTree(facts.page_shift, self.new_address())
        self.memory = HostMemory(facts.page_shift, _no_notifier)
        self.payload_frame = 0
        self.failures: list[str] = list(NOTHING_UNUSUAL.failures)

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
        self.lpids.remove(lpid)

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
        data = bytearray()
        while length:
            offset = gpa & ((1 << self.page_shift) - 1)
            part = min(length, (1 << self.page_shift) - offset)
            memslot = self.gfn_to_memslot(gpa >> self.page_shift)
            if memslot is None or memslot.flags & KVM_MEMSLOT_INVALID:
                return None
            data += self.memory.read(self.hva_of(memslot, gpa >> self.page_shift) + offset, part)
            gpa += part
            length -= part
        return bytes(data)

    def strikes(self, failure: str) -> bool:
        """Whether the next observed failure is this one; it is then used up."""
        if self.failures and self.failures[0] == failure:
            self.failures.pop(0)
            return True
        return False


def _no_notifier(start: int, end: int) -> None:
    """Stand in until `sim.notifier.register` connects the VM."""
