"""What the VMM and its host do to the VM: memory, slots, ageing, the dirty log."""

from nestscope.sim.constants import EFAULT, EINVAL, PMD_SHIFT, U64
from nestscope.sim.dirty import clear_dirty_log, get_dirty_log
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import (
    DONE,
    AddSlot,
    AdviseHuge,
    Age,
    AllocateHtab,
    ClearDirtyLog,
    ClearRefs,
    CollapseHuge,
    DeleteSlot,
    Discard,
    Event,
    Fork,
    GetDirtyLog,
    MapHugetlb,
    Migrate,
    MoveSlot,
    Protect,
    Remap,
    Result,
    SetSlotFlags,
    SplitHuge,
    SwitchToHpt,
    SwitchToRadix,
    TestAge,
    Write,
)
from nestscope.sim.fork import fork
from nestscope.sim.hostmm import HUGE_SHIFTS
from nestscope.sim.kvm import Kvm, Memslot
from nestscope.sim.lifecycle import allocate_htab, switch_to_hpt, switch_to_radix
from nestscope.sim.memslots import set_memory_region, slot_by_id
from nestscope.sim.notifier import age_range, test_age
from nestscope.sim.soft_dirty import clear_refs
from nestscope.sim.steps import Steps


def path(kvm: Kvm, event: Event) -> Steps[Result]:
    """Return the path of an event of the VMM or its host."""
    match event:
        case Write(gpa, data):
            return (yield from write(kvm, gpa, data))
        case Discard(gpa, length):
            return (yield from discard(kvm, gpa, length))
        case AddSlot(slot, gpa, size, hva, flags):
            map_memory(kvm, hva, size)
            return result_of((yield from set_memory_region(kvm, slot, gpa, size, hva, flags)))
        case DeleteSlot(slot):
            return result_of((yield from set_memory_region(kvm, slot, 0, 0, 0, 0)))
        case MoveSlot(slot, gpa):
            old = known_slot(kvm, slot)
            return (yield from change_slot(kvm, old, gpa, old.flags))
        case SetSlotFlags(slot, flags):
            old = known_slot(kvm, slot)
            return (yield from change_slot(kvm, old, old.base_gfn << kvm.page_shift, flags))
        case GetDirtyLog(slot):
            error, bitmap = yield from get_dirty_log(kvm, slot)
            return Result(ret=error & U64, value=None if error else bitmap)
        case ClearDirtyLog():
            return result_of(clear_dirty_log())
        case SwitchToHpt():
            return result_of((yield from switch_to_hpt(kvm)))
        case AllocateHtab(order):
            return result_of((yield from allocate_htab(kvm, order)))
        case SwitchToRadix():
            return result_of((yield from switch_to_radix(kvm)))
        case _:
            return (yield from memory_path(kvm, event))


def memory_path(kvm: Kvm, event: Event) -> Steps[Result]:  # noqa: PLR0912  one an event
    """Return the path of an event of the host's memory management."""
    if isinstance(event, CollapseHuge):
        # It allows huge pages for just this moment, whatever becomes of it.
        hva = aligned_hva(kvm, event.gpa, event.shift)
        kvm.memory.vmas.advise_huge(hva, hva + (1 << event.shift), on=False)
    if kvm.refused:
        return result_of(-kvm.refused)
    match event:
        case Age(gpa, length):
            return (yield from age(kvm, gpa, length))
        case TestAge(gpa):
            return Result(ret=int(test_age(kvm, vmm_hva(kvm, gpa))))
        case Migrate(gpa, length):
            yield from kvm.memory.migrate(hva_of_range(kvm, gpa, length), length, kvm.moved)
            forget_payload(kvm)
        case Remap(gpa, length):
            error = yield from kvm.memory.remap(hva_of_range(kvm, gpa, length), length)
            forget_payload(kvm)
            return result_of(error)
        case MapHugetlb(gpa, length, shift):
            hva = hva_of_range(kvm, gpa, length)
            error = yield from kvm.memory.map_hugetlb(hva, length, shift)
            forget_payload(kvm)
            return result_of(error)
        case Protect(gpa, length, writable):
            hva = hva_of_range(kvm, gpa, length)
            return result_of((yield from kvm.memory.protect(hva, length, writable=writable)))
        case AdviseHuge(gpa, length, on):
            hva = hva_of_range(kvm, gpa, length)
            return result_of((yield from kvm.memory.advise_huge(hva, length, on=on)))
        case ClearRefs(what):
            return result_of((yield from clear_refs(kvm.memory, what)))
        case Fork():
            yield from fork(kvm.memory)
        case CollapseHuge(gpa, shift):
            yield from kvm.memory.collapse(aligned_hva(kvm, gpa, shift), shift)
            forget_payload(kvm)
        case SplitHuge(gpa, shift):
            yield from split(kvm, gpa, shift)
        case _:
            raise UnmodelledError(f"the event {event}")
    return DONE


def result_of(error: int) -> Result:
    """Return the result of a system call: 0 or a negative errno as 64 bits."""
    return Result(ret=error & U64) if error else DONE


def known_slot(kvm: Kvm, slot: int) -> Memslot:
    """Return a slot; raises UnmodelledError if there is none with this number."""
    memslot = slot_by_id(kvm, slot)
    if memslot is None:
        raise UnmodelledError(f"slot {slot} does not exist")
    return memslot


def change_slot(kvm: Kvm, old: Memslot, gpa: int, flags: int) -> Steps[Result]:
    """Set a slot again, with another address or other flags."""
    size = old.npages << kvm.page_shift
    hva = old.userspace_addr
    return result_of((yield from set_memory_region(kvm, old.id, gpa, size, hva, flags)))


def age(kvm: Kvm, gpa: int, length: int) -> Steps[Result]:
    """Let the host look which pages of a range were used."""
    hva = hva_of_range(kvm, gpa, length)
    by_reclaim = kvm.facts.ages_by_reclaim
    ranges = yield from kvm.memory.age(hva, length, by_reclaim=by_reclaim)
    young = [age_range(kvm, start, end) for start, end in ranges]
    if by_reclaim and kvm.memory.vmas.has_hugetlb(hva, hva + length):
        return result_of(-EINVAL)  # MADV_PAGEOUT takes none of it (`can_madv_lru_vma`)
    return Result(ret=int(any(young)))


def vmm_hva(kvm: Kvm, gpa: int) -> int:
    """Return where the VMM sees guest real address `gpa`."""
    memslot = kvm.gfn_to_memslot(gpa >> kvm.page_shift)
    if memslot is None:
        raise UnmodelledError(f"the VMM has no memory for {gpa:#x}")
    return kvm.hva_of(memslot, gpa >> kvm.page_shift) + (gpa & ((1 << kvm.page_shift) - 1))


def hva_of_range(kvm: Kvm, gpa: int, length: int) -> int:
    """Return the hva of a range of whole host pages that lies in one slot."""
    page_mask = (1 << kvm.page_shift) - 1
    if (gpa | length) & page_mask or not length:
        raise UnmodelledError(f"{gpa:#x} (+{length:#x}) is not a range of host pages")
    hva = vmm_hva(kvm, gpa)
    if vmm_hva(kvm, gpa + length - 1) != hva + length - 1:
        raise UnmodelledError(f"{gpa:#x} (+{length:#x}) is not in one slot")
    return hva


def aligned_hva(kvm: Kvm, gpa: int, shift: int) -> int:
    """Return the hva of `gpa`, which must be a multiple of the page size `1 << shift`."""
    hva = vmm_hva(kvm, gpa)
    if shift not in HUGE_SHIFTS or hva & ((1 << shift) - 1):
        raise UnmodelledError(f"a huge page of 2^{shift} bytes at hva {hva:#x}")
    return hva


def write(kvm: Kvm, gpa: int, data: bytes) -> Steps[Result]:
    """Write guest memory through the VMM's mapping; slots are contiguous there.

    -EFAULT at a page that the VMM made read-only for itself; what lies before is written.
    """
    if not data:
        return DONE
    hva = vmm_hva(kvm, gpa)
    vmm_hva(kvm, gpa + len(data) - 1)
    return DONE if (yield from kvm.memory.write(hva, data)) else result_of(-EFAULT)


def touch_for_write(kvm: Kvm, gpa: int) -> Steps[int]:
    """Make the page private, as any write of the VMM does; return its frame."""
    page = vmm_hva(kvm, gpa) >> kvm.page_shift
    frame = kvm.memory.private_frame(page) or (yield from kvm.memory.write_fault(page))
    if not frame:
        raise UnmodelledError(f"the VMM writes to {gpa:#x}, which it made read-only")
    return frame


def discard(kvm: Kvm, gpa: int, length: int) -> Steps[Result]:
    """madvise(MADV_DONTNEED): whole host pages; the end is rounded up."""
    page_mask = (1 << kvm.page_shift) - 1
    hva = vmm_hva(kvm, gpa)
    if hva & page_mask:
        return Result(ret=-EINVAL & U64)
    length = (length + page_mask) & ~page_mask
    if length:
        vmm_hva(kvm, gpa + length - 1)
        error = yield from kvm.memory.advise_discard(hva, length)
        forget_payload(kvm)
        return result_of(error)
    return DONE


def split(kvm: Kvm, gpa: int, shift: int) -> Steps[None]:
    """Split the huge page that holds `gpa`: a VMA is cut out of its second base page."""
    memory = kvm.memory
    hva = vmm_hva(kvm, gpa) & -1 << shift
    found = memory.find(hva >> memory.page_shift)[1]
    if shift not in HUGE_SHIFTS or (found > PMD_SHIFT) != (shift > PMD_SHIFT):
        raise UnmodelledError(f"a huge page of 2^{found} bytes at {gpa:#x} is split at 2^{shift}")
    if shift > PMD_SHIFT:
        yield from memory.split(hva, shift)
    else:
        yield from memory.cut(hva + memory.page_size, memory.page_size)


def map_memory(kvm: Kvm, hva: int, size: int) -> None:
    """Map the memory of a new slot, before the ioctl, where the range is one of pages."""
    if not (hva | size) & ((1 << kvm.page_shift) - 1):
        kvm.memory.vmas.map(hva, hva + size)


def forget_payload(kvm: Kvm) -> None:
    """Know no longer where the payload is, if its page was among those that changed.

    What nested guests do without it is not predicted.
    """
    if kvm.payload_frame and kvm.payload_frame not in kvm.memory.pages.values():
        kvm.payload_frame = 0
