"""Events: what the guest and its VMM do, one step of kernel and model alike.

All addresses are bytes, all numbers unsigned. The guest agent executes an event
in the real machine; `sim.model.Model.step` executes it in the model.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

AccessKind = Literal["load", "store", "fetch"]


@dataclass(frozen=True, slots=True)
class CreateVm:
    """The VMM makes a VM with nested virtualisation enabled and one vCPU."""


@dataclass(frozen=True, slots=True)
class AddSlot:
    """The VMM maps fresh anonymous private memory (no huge pages) and makes it a memslot.

    `gpa` and `size` in bytes, `userspace_addr` is the address in the VMM. If it has
    memory there already (a slot that was deleted), that memory stays. `flags`:
    KVM_MEM_LOG_DIRTY_PAGES (1), KVM_MEM_READONLY (2). `ret` is 0 or a negative
    errno, as for the other changes of slots.
    """

    slot: int
    gpa: int
    size: int
    userspace_addr: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class DeleteSlot:
    """The VMM deletes a memslot; the memory behind it stays."""

    slot: int


@dataclass(frozen=True, slots=True)
class MoveSlot:
    """The VMM moves a memslot to another `gpa` (bytes)."""

    slot: int
    gpa: int


@dataclass(frozen=True, slots=True)
class SetSlotFlags:
    """The VMM sets the flags of a memslot: dirty logging on (1) or off (0)."""

    slot: int
    flags: int


@dataclass(frozen=True, slots=True)
class GetDirtyLog:
    """KVM_GET_DIRTY_LOG: `value` is the bitmap, bit i for page i of the slot (host pages)."""

    slot: int


@dataclass(frozen=True, slots=True)
class ClearDirtyLog:
    """KVM_CLEAR_DIRTY_LOG for `count` host pages from page `first` of the slot."""

    slot: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LoadCode:
    """The VMM writes the guest's stub and the nested payload through its own mapping."""


@dataclass(frozen=True, slots=True)
class Write:
    """The VMM writes `data` to guest memory at `gpa` through its own mapping."""

    gpa: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Hcall:
    """The guest's stub executes hypercall `number` with `args` in r4 and up."""

    number: int
    args: tuple[int, ...]
    vcpu: int = 0


@dataclass(frozen=True, slots=True)
class Access:
    """The guest enters nested guest `l1_lpid` once: one access, then `sc 1`.

    `address` is a nested real address, 8-byte aligned for load and store, 4-byte
    aligned for fetch, which jumps to a `blr`. `value` is what a store stores
    (8 bytes, little-endian). The payload runs in real mode from nested real
    address 0. The VMM fills `hv_guest_state` and the nested registers before.
    """

    l1_lpid: int
    kind: AccessKind
    address: int
    value: int = 0
    vcpu: int = 0


@dataclass(frozen=True, slots=True)
class Discard:
    """The VMM gives host pages back: madvise(MADV_DONTNEED) of the guest range."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Migrate:
    """The host moves the pages of a guest range to other frames (`gpa`, `length` in bytes)."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Remap:
    """The VMM puts other pages with the same contents in the place of a guest range (mremap)."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class CollapseHuge:
    """The host backs `1 << shift` bytes of guest memory at `gpa` with one huge page.

    khugepaged or hugetlbfs; `shift` is 21 or 30, and the address of the VMM that
    `gpa` has must be a multiple of the size.
    """

    gpa: int
    shift: int


@dataclass(frozen=True, slots=True)
class SplitHuge:
    """The host splits the huge page of `1 << shift` bytes that holds `gpa`."""

    gpa: int
    shift: int


@dataclass(frozen=True, slots=True)
class Protect:
    """The VMM makes its mapping of a guest range read-only or writable again (mprotect)."""

    gpa: int
    length: int
    writable: bool


@dataclass(frozen=True, slots=True)
class AdviseHuge:
    """The VMM allows huge pages in a guest range, or forbids them (the default).

    madvise(MADV_HUGEPAGE) or madvise(MADV_NOHUGEPAGE). What is there stays; a later fault
    in a block of 2 MiB with no page in it yet gets a huge page.
    """

    gpa: int
    length: int
    on: bool


@dataclass(frozen=True, slots=True)
class MapHugetlb:
    """The VMM maps fresh memory of hugetlbfs pages over a guest range (mmap, MAP_HUGETLB).

    Pages of `1 << shift` bytes, which later faults bring; what was there is gone. -EINVAL if the
    VMM's address or `length` is no multiple of that. `ret` tells where the host has none.
    """

    gpa: int
    length: int
    shift: int = 21


@dataclass(frozen=True, slots=True)
class ClearRefs:
    """The VMM writes a number to /proc/self/clear_refs.

    4 clears the soft-dirty bits, for which all its pages become read-only; 1, 2, 3 and 5
    do nothing that the guest could see; `ret` is -EINVAL or -ERANGE for others.
    """

    what: int


@dataclass(frozen=True, slots=True)
class Fork:
    """The VMM forks a child, which ends at once: its own pages are left read-only.

    The next write to one finds that nobody shares it, or copies it.
    """


@dataclass(frozen=True, slots=True)
class Age:
    """The host clears R over a guest range (`clear_young`): `ret` is 1 if any was set."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class TestAge:
    """The host looks at R of one page (`test_young`): `ret` is 1 if it is set."""

    __test__ = False  # not a test class for pytest

    gpa: int


@dataclass(frozen=True, slots=True)
class DestroyVm:
    """The VMM closes the VM and unmaps its memory; `CreateVm` may follow."""


@dataclass(frozen=True, slots=True)
class SwitchToHpt:
    """The VMM switches the VM to a hash page table (KVM_PPC_CONFIGURE_V3_MMU)."""


@dataclass(frozen=True, slots=True)
class AllocateHtab:
    """The VMM asks for a hash page table of `1 << order` bytes (KVM_PPC_ALLOCATE_HTAB)."""

    order: int


@dataclass(frozen=True, slots=True)
class SwitchToRadix:
    """The VMM switches the VM to radix, which it has at first (KVM_PPC_CONFIGURE_V3_MMU)."""


VmmEvent = (
    AddSlot
    | DeleteSlot
    | MoveSlot
    | SetSlotFlags
    | GetDirtyLog
    | ClearDirtyLog
    | Migrate
    | Remap
    | CollapseHuge
    | SplitHuge
    | Protect
    | AdviseHuge
    | MapHugetlb
    | ClearRefs
    | Fork
    | Age
    | TestAge
    | DestroyVm
    | SwitchToHpt
    | SwitchToRadix
    | AllocateHtab
)
"""What VMM and host do to the VM: each is an operation of a trace as it is."""

Event = CreateVm | LoadCode | Write | Hcall | Access | Discard | VmmEvent


class Result(NamedTuple):
    """What an event reports. None: the model does not predict the field.

    `ret`: r3 of the hypercall (two's complement, 64 bits); for an `Access` the
    trap (0xc00 for an `sc 1`, 0xe00, 0xe20, 0xe40 for no instruction, 0x980 when its
    time was up), or the error of H_ENTER_NESTED; for a `Discard` the result of
    madvise(2); else 0 or what the event says.
    `value`: what a load loaded (8 bytes, little-endian), or a dirty bitmap.
    `nip`, `msr`: of the nested guest at its exit. `r3`: 0 when the payload did
    its access, the vector of an interrupt that it took itself, else as it was.
    `hdar`, `hdsisr`, `asdr`: of `hv_guest_state` at the exit; the guest had
    cleared them before. `huge_refused`: how many faults found no memory for a huge page.
    """

    ret: int = 0
    value: int | None = None
    r3: int | None = None
    nip: int | None = None
    msr: int | None = None
    hdar: int | None = None
    hdsisr: int | None = None
    asdr: int | None = None
    huge_refused: int | None = None


DONE = Result()
